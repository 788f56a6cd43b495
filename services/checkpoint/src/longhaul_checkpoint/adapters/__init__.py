"""The checkpoint store's ways to the database, the object store and the training service."""
