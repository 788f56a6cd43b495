"""The catalogue of every metric, docs/metrics.md, from the code that makes them.

The source is read, not run: a metric is a call of `counter`, `gauge`, `histogram` or `table` on a service's `Metrics`,
or a metric class of prometheus_client in the core library. Name, help text and labels must be literals (or constants of
the module), so that the catalogue is complete by construction; anything else is an error, and so is a name against the
conventions of Prometheus.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORE = "longhaul_core"
METHODS = {"counter": "counter", "gauge": "gauge", "table": "gauge", "histogram": "histogram"}
CLASSES = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram"}
UNITS = {
    "_timestamp_seconds": "Unix time",
    "_seconds": "seconds",
    "_bytes": "bytes",
    "_ratio": "0 to 1",
    "_tokens_per_second": "tokens/s",
    "_flops": "FLOP/s",
    "_loss": "nats/token",
    "_info": "",
}
HEAD = """\
# Metrics

Every metric of the services and of the training pods, generated from the code by `make docs`. Services serve them at
`/metrics` on their port + 100 (7501 to 7506), training pods on 7507. Labels are bounded: by the code, or by what runs
now (`project`, `run`, `node`); series of what has ended vanish. `python_*` and `process_*` are of prometheus_client.

Recording rules and alerts are in `charts/longhaul/files/rules/`, what to do about an alert in [runbooks/](runbooks/).
"""
TITLES = {
    CORE: "All services",
    "longhaul_training": "training (the controller)",
    "longhaul_trainer": "trainer (in each training pod)",
}


@dataclass(frozen=True, slots=True, order=True)
class Metric:
    """One row of the catalogue."""

    package: str
    name: str
    type: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def exposed(self) -> str:
        """The name as it is scraped."""
        return f"{self.name}_total" if self.type == "counter" else self.name

    @property
    def unit(self) -> str:
        """What is counted, by the name's suffix."""
        return next((unit for suffix, unit in UNITS.items() if self.name.endswith(suffix)), "")


def catalogue() -> list[Metric]:
    """All metrics of all packages, sorted; exits where the code cannot be read or a name breaks the conventions."""
    found = [metric for path in _sources() for metric in _metrics_of(path)]
    problems = [problem for metric in found for problem in _problems(metric)]
    names = [metric.exposed for metric in found]
    problems += [f"{name}: made at two places" for name in sorted({name for name in names if names.count(name) > 1})]
    if problems:
        sys.exit("metrics_catalogue: " + "\n".join(problems))
    return sorted(found)


def _sources() -> Iterator[Path]:
    for folder in (*ROOT.glob("libs/core/src/longhaul_core"), *ROOT.glob("services/*/src/longhaul_*")):
        yield from sorted(folder.rglob("*.py"))


def _metrics_of(path: Path) -> Iterator[Metric]:
    package = next(part for part in path.parts if part.startswith("longhaul_"))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        type_ = _type_of(node, package)
        if type_ is not None:
            yield _read(node, type_, package, constants, path)


def _type_of(node: ast.Call, package: str) -> str | None:
    function = node.func
    if isinstance(function, ast.Name) and package == CORE and function.id in CLASSES:
        first = node.args[0]  # the factory of `Metrics` itself passes a name on
        return CLASSES[function.id] if isinstance(first, ast.Constant) else None
    if isinstance(function, ast.Attribute) and function.attr in METHODS and package != CORE:
        owner = function.value
        name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
        return METHODS[function.attr] if name == "metrics" else None
    return None


def _read(node: ast.Call, type_: str, package: str, constants: dict[str, ast.expr], path: Path) -> Metric:
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    values = [*node.args, *[given[name] for name in ("name", "documentation", "labels") if name in given]]
    try:
        name, meaning = _text(values[0]), _text(values[1])
        labels = _labels(values[2], constants) if len(values) > 2 else ()
    except (ValueError, IndexError):
        sys.exit(f"{_place(path, node)}: name, help and labels of a metric must be literals")
    prefix = "" if package == CORE else f"{package}_"
    return Metric(package, f"{prefix}{name}", type_, labels, meaning)


def _text(node: ast.expr) -> str:
    return str(ast.literal_eval(node))


def _labels(node: ast.expr, constants: dict[str, ast.expr]) -> tuple[str, ...]:
    if isinstance(node, ast.Name) and node.id in constants:
        return _labels(constants[node.id], constants)
    if isinstance(node, ast.Tuple | ast.List):
        parts = [
            _labels(item.value, constants) if isinstance(item, ast.Starred) else (_text(item),) for item in node.elts
        ]
        return tuple(label for part in parts for label in part)
    raise ValueError(ast.dump(node))


def _problems(metric: Metric) -> Iterator[str]:
    if metric.type == "counter" and metric.name.endswith("_total"):
        yield f"{metric.name}: prometheus_client adds _total by itself"
    if metric.type == "histogram" and not metric.name.endswith(("_seconds", "_bytes")):
        yield f"{metric.name}: a histogram ends with its unit"
    if metric.type != "counter" and metric.name.endswith(("_count", "_sum", "_bucket", "_total")):
        yield f"{metric.name}: the suffix belongs to another type"
    if not metric.meaning.endswith("."):
        yield f"{metric.name}: the help text is a sentence"


def _place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def metrics_page() -> str:
    """The catalogue as Markdown."""
    metrics = catalogue()
    packages = sorted({metric.package for metric in metrics}, key=lambda package: (package != CORE, package))
    parts = [HEAD]
    for package in packages:
        rows = [
            f"| `{m.exposed}` | {m.type} | {', '.join(f'`{label}`' for label in m.labels)} | {m.unit} | {m.meaning} |"
            for m in metrics
            if m.package == package
        ]
        title = TITLES.get(package, package.removeprefix("longhaul_"))
        parts.append(f"\n## {title}\n\n| name | type | labels | unit | meaning |\n|---|---|---|---|---|\n")
        parts.append("\n".join(rows) + "\n")
    return "".join(parts)
