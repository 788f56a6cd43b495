"""longhaul ingest service."""
