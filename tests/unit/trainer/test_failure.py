from __future__ import annotations

import pytest
import torch
from longhaul_core.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from longhaul_trainer.exit_codes import ExitCode
from longhaul_trainer.loop.stops import AnomalyStop, AttemptFailed, Preempted
from longhaul_trainer.worker.failure import exit_code_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Preempted("stop"), ExitCode.PREEMPTED),
        (AnomalyStop("nan"), ExitCode.ANOMALY),
        (AttemptFailed("superseded"), ExitCode.RETRY),
        (Unavailable("store away"), ExitCode.RETRY),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"), ExitCode.RETRY),
        (torch.distributed.DistNetworkError("broken pipe"), ExitCode.RETRY),
        (InvalidArgument("heads"), ExitCode.CONFIGURATION),
        (FailedPrecondition("layout"), ExitCode.CONFIGURATION),
        (FailedPrecondition("short", reason="SEQUENCE_LONGER_THAN_SOURCE"), ExitCode.DATA),
        (FailedPrecondition("shards", reason="GATE_FAILED"), ExitCode.GATE_FAILED),
        (DataLoss("bits"), ExitCode.DATA),
        (NotFound("manifest"), ExitCode.DATA),
        (MemoryError(), ExitCode.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory"), ExitCode.OUT_OF_MEMORY),
        (RuntimeError("size mismatch"), ExitCode.INTERNAL),
        (KeyError("x"), ExitCode.INTERNAL),
    ],
)
def test_exit_code_tells_the_controller_what_kind_of_failure_it_was(error: BaseException, code: ExitCode) -> None:
    assert exit_code_of(error) is code
