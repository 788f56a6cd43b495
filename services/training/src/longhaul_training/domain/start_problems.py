"""Why a pod that has a place does not start, and what a person can do about it. Pure."""

from __future__ import annotations

from longhaul_training.domain.observations import PodPhase, PodView

_START_PROBLEMS = {
    "ImageUnavailable": (
        "IMAGE_UNAVAILABLE",
        "check resources.image, that the registry is reachable, and resources.pod.pull_secrets",
    ),
    "SecretMissing": ("SECRET_MISSING", "create it in the project's namespace; the pod goes on by itself"),
    "ContainerInvalid": ("CONTAINER_INVALID", "correct resources.pod, then submit the run under a new name"),
    "MountFailed": ("MOUNT_FAILED", "see that the volumes of the pod exist and can be attached to the node"),
    "StartError": ("START_FAILED", "check that the image has Python and longhaul_trainer, then look at the node"),
    "Unschedulable": ("UNSCHEDULABLE", "ask the cluster's operator; the scheduler's words are above"),
}


def start_problem(pod: PodView) -> tuple[str, str] | None:
    """Code and advice for a pod that waits for something which does not come by itself."""
    return _START_PROBLEMS.get(pod.reason) if pod.phase is PodPhase.PENDING else None
