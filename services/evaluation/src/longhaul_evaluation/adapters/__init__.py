"""The evaluation service's ways to the database, the object store and the other services."""
