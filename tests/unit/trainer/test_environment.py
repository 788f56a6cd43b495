from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from longhaul_trainer.worker.environment import describe_environment, environment_document, harmless


def test_variables_that_move_a_computation_are_kept_and_no_secret_is() -> None:
    kept = {"OMP_NUM_THREADS": "1", "NCCL_ALGO": "Ring", "CUDA_VISIBLE_DEVICES": "0", "LD_PRELOAD": "libfast.so"}
    secret = {
        "LONGHAUL_AGENT_TOKEN": "t",
        "LONGHAUL_S3_SECRET_KEY": "s",
        "LONGHAUL_TASK_ARGUMENTS": "{}",
        "NCCL_AUTH": "a",
        "LONGHAUL_TLS_CA_PEM": "p",
        "AWS_SECRET_ACCESS_KEY": "x",
        "LONGHAUL_ACCESS_KEY": "k",
    }
    assert harmless({**kept, **secret, "HOME": "/root", "WANDB_API_KEY": "w"}) == kept
    url = harmless({"LONGHAUL_OBJECT_STORE_URL": "s3://who:what@store/bucket"})
    assert url == {"LONGHAUL_OBJECT_STORE_URL": "s3://***@store/bucket"}


def test_record_names_lock_packages_image_and_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    record = json.loads(environment_document("registry/longhaul-trainer@sha256:12"))
    assert record["versions"]["image"] == "registry/longhaul-trainer@sha256:12"
    assert len(record["versions"]["lock_digest"]) == 64
    head = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    assert record["versions"].get("commit", "") == head.stdout.strip()
    assert any(pin.startswith("torch==") for pin in record["packages"])
    assert record["variables"]["OMP_NUM_THREADS"] == "3"
    assert bool(record["changes"]) == ("uncommitted_digest" in record["versions"])
    assert environment_document("registry/longhaul-trainer@sha256:12") == environment_document(
        "registry/longhaul-trainer@sha256:12"
    )
    assert "image" not in describe_environment()
