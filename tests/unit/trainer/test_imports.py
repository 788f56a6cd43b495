from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("longhaul_trainer.agent.agent", ("torch", "numpy", "lm_eval")),
        ("longhaul_trainer.worker.__main__", ("torch", "numpy", "grpc")),
        ("longhaul_trainer.worker.nursery", ("lm_eval", "transformers", "datasets")),
        ("longhaul_trainer.tasks.__main__", ("torch", "lm_eval")),
    ],
)
def test_module_imports_nothing_that_would_slow_its_start(module: str, forbidden: tuple[str, ...]) -> None:
    program = f"import sys, {module}; print([name for name in {forbidden!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
