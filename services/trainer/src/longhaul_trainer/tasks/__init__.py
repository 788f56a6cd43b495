"""Short programs of the trainer that run in a pod of their own: scoring, export, burn-in."""
