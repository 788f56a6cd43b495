"""Reasons for a worker to end before its last step."""

from __future__ import annotations

from longhaul_core.errors import LonghaulError


class AnomalyStop(LonghaulError):  # noqa: N818
    """Loss or gradients are not finite; the state is worthless and must not be saved."""

    default_reason = "LOSS_NOT_FINITE"


class Preempted(LonghaulError):  # noqa: N818
    """Told to stop; the checkpoint is committed."""

    default_reason = "PREEMPTED"


class AttemptFailed(LonghaulError):  # noqa: N818
    """This attempt cannot go on, another one may: a peer was lost, the store is away, a newer epoch runs."""

    default_reason = "ATTEMPT_FAILED"
