"""`python -m longhaul_ingest` runs the ingest service."""

from longhaul_core.collector import importing

with importing():
    from longhaul_core.rpc.server import main

    from longhaul_ingest.app import build
    from longhaul_ingest.settings import IngestSettings

if __name__ == "__main__":
    main(IngestSettings, build)
