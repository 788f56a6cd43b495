"""`python -m longhaul_training` runs the training service."""

from longhaul_core.collector import importing

with importing():
    from longhaul_core.rpc.server import main

    from longhaul_training.app import build
    from longhaul_training.settings import TrainingSettings

if __name__ == "__main__":
    main(TrainingSettings, build)
