"""What the engine remembers of one node, and what of that outlives the program. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from longhaul_gpuhealth.domain.memory import GpuMemory, OpenFinding
from longhaul_gpuhealth.domain.model import Finding
from longhaul_gpuhealth.domain.reading import GpuReading, Reading
from longhaul_gpuhealth.domain.rules import RuleSet


@dataclass(slots=True)
class NodeMemory:
    """One node; its GPUs by index."""

    name: str
    last_time: float | None = None
    gpus: dict[int, GpuMemory] = field(default_factory=dict)
    driver: str = ""
    driver_changed_at: float | None = None

    @property
    def in_order(self) -> list[GpuMemory]:
        """Its GPUs by index."""
        return [self.gpus[index] for index in sorted(self.gpus)]

    def begin(self, reading: Reading) -> None:
        """A reading is taken in."""
        self.last_time = reading.time
        if reading.driver and reading.driver != self.driver:
            self.driver_changed_at = reading.time if self.driver else self.driver_changed_at
            self.driver = reading.driver

    def gpu(self, index: int, reading: GpuReading, time: float) -> GpuMemory:
        """The memory of a GPU that was read; another card in the slot has another past."""
        memory = self.gpus.get(index)
        if memory is None or (reading.uuid and memory.uuid and reading.uuid != memory.uuid):
            memory = self.gpus[index] = GpuMemory(index)
        memory.uuid, memory.model = reading.uuid or memory.uuid, reading.model or memory.model
        if reading.signals:
            memory.last_seen = time
        return memory

    def release(self) -> None:
        """Forget what is held against it. GPUs that are missing are not waited for any more."""
        for gpu in self.gpus.values():
            gpu.open.clear()
            gpu.holds_since.clear()
        if self.last_time is not None:
            heard = self.last_time
            self.gpus = {one: gpu for one, gpu in self.gpus.items() if not gpu.is_gpu or gpu.last_seen >= heard}

    def snapshot(self) -> list[dict[str, Any]]:
        """What must survive a restart, beside the findings, as JSON."""
        return [gpu.snapshot() for gpu in self.in_order]

    @classmethod
    def restored(
        cls,
        name: str,
        snapshot: Iterable[Mapping[str, Any]],
        findings: Iterable[Finding],
        heard: float | None,
        rules: RuleSet,
    ) -> NodeMemory:
        """Take up what another life of this program knew; findings of rules that are gone are dropped."""
        memory = cls(name, heard)
        for one in snapshot:
            gpu = GpuMemory.restored(one)
            gpu.last_seen = heard or 0.0
            memory.gpus[gpu.index] = gpu
        for finding in findings:
            rule = rules.find(finding.rule)
            if rule is not None and finding.gpu in memory.gpus:
                memory.gpus[finding.gpu].open[rule.id] = OpenFinding.reopened(rule, finding)
        return memory
