"""Who uses which GPU: from the exporter's labels where they are there, else from the pods on the node. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from longhaul_gpuhealth.domain.model import Job


@dataclass(frozen=True, slots=True)
class PodUse:
    """A pod that holds GPUs of a node. `slot` -1: it is no pod of a run."""

    namespace: str
    name: str
    gpus: int
    project: str = ""
    run: str = ""
    slot: int = -1

    def job(self, position: int) -> Job:
        """Its use of its GPU at `position`; ranks follow the order of slots, then that of the GPUs within the pod."""
        rank = -1 if self.slot < 0 else self.slot * self.gpus + position
        return Job(self.namespace, self.name, self.project, self.run, rank)


@dataclass(frozen=True, slots=True)
class Uses:
    """The job of each GPU that is known, and how many GPUs are held by pods without anyone knowing which."""

    jobs: Mapping[int, Job]
    unattributed: int


def attribute_pods(reported: Mapping[int, tuple[str, str] | None], pods: Sequence[PodUse]) -> Uses:
    """Join the GPUs of a node, with the pods that its exporter named, and the pods that hold GPUs there.

    A pod that no label names is given the GPUs that are left when it is the only such pod and holds all of them.
    """
    by_name = {(pod.namespace, pod.name): pod for pod in pods}
    jobs: dict[int, Job] = {}
    for key in {named for named in reported.values() if named is not None}:
        pod = by_name.get(key, PodUse(key[0], key[1], 0))
        held = sorted(index for index, named in reported.items() if named == key)
        jobs.update({index: pod.job(position) for position, index in enumerate(held)})
    named = {(job.namespace, job.pod) for job in jobs.values()}
    unnamed = [pod for pod in pods if (pod.namespace, pod.name) not in named]
    left = sorted(index for index in reported if index not in jobs)
    if len(unnamed) == 1 and left and unnamed[0].gpus == len(left):
        jobs.update({index: unnamed[0].job(position) for position, index in enumerate(left)})
        return Uses(jobs, 0)
    return Uses(jobs, min(len(left), sum(pod.gpus for pod in unnamed)))
