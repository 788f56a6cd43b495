"""Pages as dcgm-exporter writes them, and an engine that reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from longhaul_gpuhealth.domain.engine import Engine
from longhaul_gpuhealth.domain.exposition import PageReader
from longhaul_gpuhealth.domain.model import Finding, HealthState, NodeVerdict
from longhaul_gpuhealth.domain.reading import Attribution
from longhaul_gpuhealth.domain.rulefile import default_rules
from longhaul_gpuhealth.domain.rules import RuleSet
from longhaul_gpuhealth.exporter.fleet import Fleet
from longhaul_gpuhealth.exporter.scenario import NodeScenario, Scenario

SILENCE_SECONDS = 3.0


def labels(gpu: int, node: str = "n0", model: str = "NVIDIA H100 80GB HBM3") -> str:
    return (
        f'gpu="{gpu}",UUID="GPU-{node}-{gpu}",pci_bus_id="00000000:1B:00.0",device="nvidia{gpu}",'
        f'modelName="{model}",Hostname="{node}",DCGM_FI_DRIVER_VERSION="570.133.20"'
    )


@dataclass
class Bench:
    """An engine under test: `scrape` gives it a real page in which some signals of GPU 0 are as told."""

    rules: RuleSet
    engine: Engine = field(init=False)
    now: float = 1_000_000.0
    readers: dict[str, tuple[PageReader, Attribution]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engine = Engine(self.rules, SILENCE_SECONDS)

    def scrape(
        self,
        signals: Mapping[str, float] | None = None,
        *,
        xids: Mapping[int, int] | None = None,
        node: str = "n0",
        gpus: Sequence[int] = (0, 1),
        after: float = 1.0,
        model: str = "NVIDIA H100 80GB HBM3",
        extra: str = "",
    ) -> NodeVerdict:
        self.now += after
        values = {"DCGM_FI_DEV_XID_ERRORS": 0.0, "DCGM_FI_DEV_GPU_TEMP": 55.0, **(signals or {})}
        lines = []
        for name, value in values.items():
            lines += [f"# HELP {name} words", f"# TYPE {name} gauge"]
            for gpu in gpus:
                shown = value if gpu == gpus[0] else {"DCGM_FI_DEV_GPU_TEMP": 50.0}.get(name, 0.0)
                lines.append(f"{name}{{{labels(gpu, node, model)}}} {shown!r}")
        for code, count in (xids or {}).items():
            where = f'{labels(gpus[0], node, model)},window_size_in_ms="300000",xid="{code}"'
            lines.append(f"DCGM_EXP_XID_ERRORS_COUNT{{{where}}} {count}")
        reader, attribution = self.readers.setdefault(node, (PageReader(), Attribution(self.rules.wanted)))
        page = reader.read("\n".join(lines) + "\n" + extra)
        self.engine.observe(attribution.attribute(node, self.now, page))
        return self.engine.verdict(node, self.now)

    def fired(self, rule: str, node: str = "n0") -> Finding | None:
        return next((one for one in self.engine.findings(node) if one.rule == rule), None)

    def state(self, node: str = "n0") -> HealthState:
        return self.engine.verdict(node, self.now).state


@pytest.fixture(scope="session")
def rules() -> RuleSet:
    return default_rules()


@pytest.fixture
def bench(rules: RuleSet) -> Bench:
    return Bench(rules)


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    return Fleet(Scenario(seed=3, nodes={"n0": NodeScenario(gpus=8)}))
