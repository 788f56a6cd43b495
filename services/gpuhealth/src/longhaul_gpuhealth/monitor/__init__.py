"""The loops of the service: watch the cluster, scrape, judge, act. They run on the replica that holds the lease."""
