"""`python -m longhaul_checkpoint` runs the checkpoint service."""

from longhaul_core.collector import importing

with importing():
    from longhaul_core.rpc.server import main

    from longhaul_checkpoint.app import build
    from longhaul_checkpoint.settings import CheckpointSettings

if __name__ == "__main__":
    main(CheckpointSettings, build)
