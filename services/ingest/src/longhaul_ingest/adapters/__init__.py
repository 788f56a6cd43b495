"""Where ingest meets the world: files, archives, extraction workers, database, object store."""
