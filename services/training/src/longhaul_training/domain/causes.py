"""Causes of faults, and what each kind of cause may do to a run.

Exit codes of the trainer: 0 done, 64 configuration, 65 data, 70 internal, 75 a peer failed, 80 out of memory, 81
anomaly stop, 82 pre-empted after a checkpoint, 83 step-0 gate; negative codes are signals.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

SIGKILL = -9
SIGTERM = -15


class Kind(StrEnum):
    """What failed; each kind has a budget of its own."""

    DISRUPTION = "DISRUPTION"
    INFRASTRUCTURE = "INFRASTRUCTURE"
    APPLICATION = "APPLICATION"
    ANOMALY = "ANOMALY"
    PEER = "PEER"
    FATAL = "FATAL"


@dataclass(frozen=True, slots=True)
class Cause:
    """A named cause; `action` tells the user what to do where the run can't go on."""

    name: str
    kind: Kind
    action: str = ""


WORKER_KILLED = Cause("WORKER_KILLED", Kind.INFRASTRUCTURE)
WORKER_CRASHED = Cause("WORKER_CRASHED", Kind.APPLICATION, "read the worker's last lines with `longhaul runs logs`")
WORKER_LEFT = Cause("WORKER_LEFT", Kind.APPLICATION, "read the worker's last lines with `longhaul runs logs`")
WORKER_PREEMPTED = Cause("WORKER_PREEMPTED", Kind.DISRUPTION)
PEER_FAILED = Cause("PEER_FAILED", Kind.PEER)
DATA_ERROR = Cause("DATA_ERROR", Kind.APPLICATION, "check the token set; build the corpus again if it is damaged")
ANOMALY_STOP = Cause("ANOMALY_STOP", Kind.ANOMALY, "look at the loss curve; lower optimizer.learning_rate and retry")
HANG = Cause("HANG", Kind.INFRASTRUCTURE)
START_TIMEOUT = Cause("START_TIMEOUT", Kind.INFRASTRUCTURE)
POD_FAILED = Cause("POD_FAILED", Kind.INFRASTRUCTURE)
POD_GONE = Cause("POD_GONE", Kind.INFRASTRUCTURE)
POD_NOT_STARTED = Cause("POD_NOT_STARTED", Kind.INFRASTRUCTURE)
POD_EVICTED = Cause("POD_EVICTED", Kind.DISRUPTION)
AGENT_SILENT = Cause("AGENT_SILENT", Kind.INFRASTRUCTURE)
NODE_LOST = Cause("NODE_LOST", Kind.INFRASTRUCTURE)
NODE_QUARANTINED = Cause("NODE_QUARANTINED", Kind.DISRUPTION)
NODE_FAULTY = Cause("NODE_FAULTY", Kind.INFRASTRUCTURE)
RESULT_DIFFERS = Cause("RESULT_DIFFERS", Kind.INFRASTRUCTURE)
REPLICAS_DIFFER = Cause("REPLICAS_DIFFER", Kind.INFRASTRUCTURE)
PREFLIGHT_FAILED = Cause("PREFLIGHT_FAILED", Kind.INFRASTRUCTURE)
CONFIGURATION = Cause("CONFIGURATION_ERROR", Kind.FATAL, "correct the recipe and submit it under a new name")
OUT_OF_MEMORY = Cause(
    "OUT_OF_MEMORY",
    Kind.FATAL,
    "lower data.micro_batch_size (accumulation keeps the global batch), shorten data.sequence_length, or use more GPUs",
)
GATE_FAILED = Cause("GATE_FAILED", Kind.FATAL, "parameters differ where they must not; the events name them")
IDENTICAL_SHARDS = Cause(
    "IDENTICAL_SHARDS",
    Kind.FATAL,
    "every rank drew the same initial values for its shard; initialise by (seed, name, global index), then submit anew",
)
_EQUAL_SHARDS_TEXT = "shards start equal"
NODE_SUSPECTING = frozenset({RESULT_DIFFERS.name, REPLICAS_DIFFER.name})
"""Causes that no restart cures: one of the nodes computes wrongly."""

_EXIT_CODES = {
    0: WORKER_LEFT,
    64: CONFIGURATION,
    65: DATA_ERROR,
    75: PEER_FAILED,
    80: OUT_OF_MEMORY,
    81: ANOMALY_STOP,
    82: WORKER_PREEMPTED,
    83: GATE_FAILED,
    SIGKILL: WORKER_KILLED,
    SIGTERM: WORKER_KILLED,
}
_OOM_REASONS = frozenset({"OOMKilled", "OutOfMemory"})
_DISRUPTION_REASONS = frozenset(
    {"Evicted", "Preempted", "Preempting", "DisruptionTarget", "NodeShutdown", "Shutdown", "TerminationByKubelet"}
)


def worker_cause(exit_code: int, message: str = "") -> Cause:
    """The cause that a worker's exit code and last words name; unknown codes and signals are crashes."""
    if exit_code == 83 and _EQUAL_SHARDS_TEXT in message:
        return IDENTICAL_SHARDS
    return _EXIT_CODES.get(exit_code, WORKER_CRASHED)


def pod_cause(reason: str, exit_code: int | None, *, disrupted: bool = False) -> Cause:
    """The cause of a pod's failure, from the cluster's reason and the exit code of the agent.

    `disrupted`: somebody took the pod's place away, whatever its processes made of that.
    """
    if disrupted or reason in _DISRUPTION_REASONS:
        return POD_EVICTED
    if reason in _OOM_REASONS:
        return OUT_OF_MEMORY
    if reason == "NodeLost":
        return NODE_LOST
    if exit_code in (64, 80):
        return _EXIT_CODES[exit_code]
    return POD_FAILED
