"""`python -m longhaul_evaluation` runs the evaluation service."""

from longhaul_core.collector import importing

with importing():
    from longhaul_core.rpc.server import main

    from longhaul_evaluation.app import build
    from longhaul_evaluation.settings import EvaluationSettings

if __name__ == "__main__":
    main(EvaluationSettings, build)
