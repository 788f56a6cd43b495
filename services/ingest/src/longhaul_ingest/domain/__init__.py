"""What ingest knows without touching the world: charsets, extraction, filters, planning, counts."""
