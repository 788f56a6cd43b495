"""Training runs: requests to stored specifications, stored runs to messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from longhaul.training.v1 import training_run_pb2 as pb
from longhaul_core.errors import InvalidArgument
from longhaul_core.ids import fingerprint, parse_name
from longhaul_core.recipe import PodConfig, Section, TrainerConfig
from pydantic import ValidationError

from longhaul_training.adapters.rank_logs import LogText
from longhaul_training.adapters.run_store import StoredRun
from longhaul_training.convert.common import metadata, plain, struct, timestamp
from longhaul_training.convert.run_status import run_status
from longhaul_training.domain.observations import AgentView
from longhaul_training.domain.planning.sizing import ModelShape

_Section = TypeVar("_Section", bound=Section)

COLLECTION = "trainingRuns"
MAXIMUM_PODS = 100_000
RESOURCE_OPTIONS = ("minimum_nodes", "node_failures_per_day", "node_repair_hours", "preflight")
PREFLIGHTS = ("quick", "full", "off")
BASES = ("tokens", "flops")
# For plans and counts before the tokenizer is known.
DEFAULT_VOCABULARY = 4096


def spec_of(message: pb.TrainingRunSpec) -> dict[str, Any]:
    """A checked specification with all defaults resolved; raises InvalidArgument naming each wrong field."""
    resources = message.resources
    spec: dict[str, Any] = {
        "trainer_config": {},
        "token_set": message.token_set,
        "resources": {
            "nodes": resources.nodes or 1,
            "gpus_per_node": resources.gpus_per_node or 1,
            "spares": resources.spares,
            "priority": resources.priority,
            "pool": resources.pool,
            "image": resources.image,
        },
        "recipe": message.recipe,
        "code_version": message.code_version,
        "labels": dict(message.labels),
    }
    spec["resources"] |= _options(resources, RESOURCE_OPTIONS)
    spec |= _options(message, ("reference_run", "reference_basis", "reference_margin"))
    violations = _resource_violations(spec["resources"]) + _choice_violations(spec)
    pod, problems = _validated(PodConfig, plain(resources.pod), "spec.resources.pod")
    violations += problems
    if pod is not None and pod != PodConfig():
        spec["resources"]["pod"] = pod.model_dump(mode="json", exclude_defaults=True)
    parse_name(message.token_set, "tokenSets", "spec.token_set")
    config, problems = trainer_config_of(plain(message.trainer_config))
    violations += problems
    if config is not None and not violations:
        violations += _layout_violations(config, spec["resources"])
        spec["trainer_config"] = config.model_dump(mode="json")
    if violations:
        listed = "; ".join(f"{field}: {text}" for field, text in violations)
        raise InvalidArgument(
            f"the training run can't be accepted: {listed}", reason="SPEC_INVALID", violations=violations
        )
    return spec


def _options(message: Any, names: Sequence[str]) -> dict[str, Any]:
    """Fields that were set; those that were not leave no trace, so that a fingerprint does not change with new ones."""
    return {name: getattr(message, name) for name in names if getattr(message, name)}


def _choice_violations(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    resources = spec["resources"]
    violations = []
    if resources.get("preflight", "quick") not in PREFLIGHTS:
        text = f"{resources['preflight']!r} is none of {', '.join(PREFLIGHTS)}"
        violations.append(("spec.resources.preflight", text))
    least = resources.get("minimum_nodes", 0)
    if least and not 0 < least <= max(1, resources["nodes"]):
        text = f"{least} is not between 1 and the {resources['nodes']} node(s) of the run"
        violations.append(("spec.resources.minimum_nodes", text))
    if min(resources.get("node_failures_per_day", 0.0), resources.get("node_repair_hours", 0.0)) < 0:
        violations.append(("spec.resources.node_failures_per_day", "must not be negative, nor node_repair_hours"))
    if spec.get("reference_basis", "tokens") not in BASES:
        violations.append(("spec.reference_basis", f"{spec['reference_basis']!r} is none of {', '.join(BASES)}"))
    if spec.get("reference_run"):
        parse_name(spec["reference_run"], COLLECTION, "spec.reference_run")
    return violations


def trainer_config_of(values: Mapping[str, Any]) -> tuple[TrainerConfig | None, list[tuple[str, str]]]:
    """The trainer's configuration, or what is wrong with it."""
    return _validated(TrainerConfig, values, "spec.trainer_config")


def _validated(
    kind: type[_Section], values: Mapping[str, Any], field: str
) -> tuple[_Section | None, list[tuple[str, str]]]:
    """A section of a recipe, or what is wrong with it."""
    try:
        return kind.model_validate(values), []
    except ValidationError as error:
        return None, [
            (".".join((field, *(str(part) for part in item["loc"]))), item["msg"].removeprefix("Value error, "))
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        ]


def model_shape(config: TrainerConfig) -> ModelShape:
    """The planner's view of a model."""
    model = config.model
    return ModelShape(
        layers=model.layers,
        hidden_size=model.hidden_size,
        heads=model.heads,
        kv_heads=model.kv_heads,
        head_size=model.head_size,
        ffn_size=model.ffn_size,
        vocabulary_size=model.vocabulary_size or DEFAULT_VOCABULARY,
        sequence_length=config.data.sequence_length,
        tied_embeddings=model.tied_embeddings,
    )


def spec_fingerprint(spec: Mapping[str, Any]) -> str:
    """What makes two requests the same: configuration, input and resources, not the wording of the recipe."""
    return fingerprint({name: spec[name] for name in ("trainer_config", "token_set", "resources")})


def pinned(spec: Mapping[str, Any], image: str) -> dict[str, Any]:
    """The specification with the image that its pods keep for good: the installation's, unless it names its own.

    No part of the fingerprint: the same request after an upgrade is the same run.
    """
    resources: Mapping[str, Any] = spec["resources"]
    return {**spec, "resources": {**resources, "image": resources["image"] or image}}


def run_to_proto(stored: StoredRun, agents: Mapping[str, AgentView], now: float) -> pb.TrainingRun:
    """A run with its status as of `now`."""
    return pb.TrainingRun(
        metadata=metadata(stored.row, stored.run.name),
        spec=spec_to_proto(stored.row.spec),
        status=run_status(stored, agents, now),
    )


def log_line(line: LogText) -> pb.LogLine:
    """A line of a rank's log."""
    chunk = line.chunk
    return pb.LogLine(
        time=timestamp(chunk.at.timestamp()), rank=chunk.rank, epoch=chunk.epoch, pod=chunk.pod, text=line.text
    )


def spec_to_proto(spec: Mapping[str, Any]) -> pb.TrainingRunSpec:
    """A stored specification as it is shown."""
    return pb.TrainingRunSpec(
        trainer_config=struct(spec["trainer_config"]),
        token_set=spec["token_set"],
        resources=pb.RunResources(**{**spec["resources"], "pod": struct(spec["resources"].get("pod", {}))}),
        recipe=spec["recipe"],
        code_version=spec["code_version"],
        labels=spec["labels"],
        reference_run=spec.get("reference_run", ""),
        reference_basis=spec.get("reference_basis", ""),
        reference_margin=spec.get("reference_margin", 0.0),
    )


def _resource_violations(resources: Mapping[str, Any]) -> list[tuple[str, str]]:
    violations = []
    for name in ("nodes", "gpus_per_node", "spares"):
        if not (0 if name == "spares" else 1) <= resources[name] <= MAXIMUM_PODS:
            violations.append((f"spec.resources.{name}", f"{resources[name]} is out of range"))
    return violations


def check_layout(config: Mapping[str, Any], nodes: int, gpus_per_node: int) -> None:
    """Refuses another number of nodes over which a run's batch or layout does not divide; raises InvalidArgument."""
    parsed = TrainerConfig.model_validate(config)
    opened = parsed.model_copy(update={"layout": parsed.layout.model_copy(update={"data_parallel": 0})})
    violations = _resource_violations({"nodes": nodes, "gpus_per_node": gpus_per_node, "spares": 0})
    violations = violations or _layout_violations(opened, {"nodes": nodes, "gpus_per_node": gpus_per_node})
    if violations:
        text = "; ".join(problem for _, problem in violations)
        raise InvalidArgument(
            f"the run can't train on {nodes} node(s): {text}", reason="LAYOUT_INVALID", violations=[("nodes", text)]
        )


def _layout_violations(config: TrainerConfig, resources: Mapping[str, Any]) -> list[tuple[str, str]]:
    world_size = resources["nodes"] * resources["gpus_per_node"]
    try:
        layout = config.check_world_size(world_size)
    except ValueError as error:
        return [("spec.trainer_config", str(error))]
    if layout.tensor_parallel > resources["gpus_per_node"]:
        text = f"tensor_parallel {layout.tensor_parallel} would cross nodes of {resources['gpus_per_node']} GPU(s)"
        return [("spec.trainer_config.layout", text)]
    return []
