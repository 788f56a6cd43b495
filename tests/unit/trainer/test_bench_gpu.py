from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[3] / "bench" / "gpu.py"


@pytest.mark.slow
def test_bench_of_gpus_can_be_rehearsed_without_one() -> None:
    command = [sys.executable, str(BENCH), "--rehearse"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    gemm, row = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert gemm["bench"] == "gemm"
    assert row["tokens_per_second"] > 0 < row["peer_tokens_per_second"]
    assert (row["ours"], row["device"]) == (None, "cpu"), "no share of a peak is claimed for what was not measured"
    assert abs(sum(row["components"].values()) - 1) < 0.01
    assert done.stdout.splitlines()[-1] == "bench-gpu: 0 of 1 targets met"
