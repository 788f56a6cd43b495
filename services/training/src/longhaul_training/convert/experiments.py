"""Experiments: a request to the runs it asks for, a stored experiment to its message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longhaul.common.v1 import resource_pb2
from longhaul.training.v1 import experiment_pb2 as pb
from longhaul_core.db import ResourceRow
from longhaul_core.errors import InvalidArgument
from longhaul_core.ids import check_id

from longhaul_training.adapters.experiment_store import ArmRequest
from longhaul_training.convert import run_status, runs
from longhaul_training.convert.common import metadata, plain_value, struct
from longhaul_training.domain.experiments import (
    BASELINE,
    MINIMUM_EFFECT,
    ExperimentState,
    Variant,
    apply_variant,
    check_variants,
)
from longhaul_training.domain.planning.sizing import size_model
from longhaul_training.domain.states import RunState

COLLECTION = "experiments"

_STATES = {state: resource_pb2.JobState.Value(f"JOB_STATE_{state.value}") for state in ExperimentState}


def experiment_spec_of(
    message: pb.ExperimentSpec, experiment_id: str, image: str
) -> tuple[dict[str, Any], list[ArmRequest]]:
    """A checked specification and the runs it asks for, baseline first; raises InvalidArgument.

    All runs keep `image`, unless the baseline names another.
    """
    baseline = runs.spec_of(message.baseline)
    variants = [Variant(check_id(v.id, "variants.id"), v.path, plain_value(v.value)) for v in message.variants]
    check_variants(variants)
    if not variants:
        text = "an experiment compares at least one variant with its baseline"
        raise InvalidArgument(text, reason="VARIANTS_MISSING", violations=[("spec.variants", text)])
    arms = [_arm(experiment_id, BASELINE, baseline, image)]
    for variant in variants:
        values = apply_variant(baseline["trainer_config"], variant)
        config, violations = runs.trainer_config_of(values)
        if config is None:
            listed = "; ".join(text for _, text in violations)
            raise InvalidArgument(f"variant {variant.id!r}: {listed}", reason="VARIANT_INVALID", violations=violations)
        changed = {**baseline, "trainer_config": config.model_dump(mode="json")}
        arms.append(_arm(experiment_id, variant.id, changed, image))
    spec = {
        "baseline": baseline,
        "variants": [{"id": v.id, "path": v.path, "value": v.value} for v in variants],
        "minimum_effect": message.minimum_effect or MINIMUM_EFFECT,
    }
    return spec, arms


def experiment_to_proto(row: ResourceRow) -> pb.Experiment:
    """An experiment with its comparison."""
    spec, status = row.spec, row.status
    message = pb.Experiment(
        metadata=metadata(row, f"projects/{row.project}/{COLLECTION}/{row.id}"),
        spec=pb.ExperimentSpec(baseline=runs.spec_to_proto(spec["baseline"]), minimum_effect=spec["minimum_effect"]),
        status=pb.ExperimentStatus(
            state=_STATES[ExperimentState(row.state)],
            winner=status["winner"],
            arms=[_arm_to_proto(row, arm) for arm in status["arms"]],
        ),
    )
    for variant in spec["variants"]:
        added = message.spec.variants.add(id=variant["id"], path=variant["path"])
        added.value.CopyFrom(struct({"value": variant["value"]}).fields["value"])
    return message


def _arm(experiment_id: str, arm: str, spec: Mapping[str, Any], image: str) -> ArmRequest:
    labels = {**spec["labels"], "experiment": experiment_id, "arm": arm}
    run_id = check_id(f"{experiment_id}-{arm}", "experiment_id")
    return ArmRequest(arm, run_id, {**runs.pinned(spec, image), "labels": labels}, runs.spec_fingerprint(spec))


def _arm_to_proto(row: ResourceRow, arm: Mapping[str, Any]) -> pb.ExperimentArm:
    config, _ = runs.trainer_config_of(_config_of(row.spec, arm["id"]))
    return pb.ExperimentArm(
        id=arm["id"],
        training_run=f"projects/{row.project}/{runs.COLLECTION}/{arm['run']}",
        state=run_status.state(RunState(arm.get("state", RunState.QUEUED))),
        step=arm.get("step", 0),
        validation_loss=arm.get("validation_loss", 0.0),
        difference=arm.get("difference", 0.0),
        parameters=size_model(runs.model_shape(config)).parameters if config is not None else 0,
    )


def _config_of(spec: Mapping[str, Any], arm: str) -> dict[str, Any]:
    base: dict[str, Any] = spec["baseline"]["trainer_config"]
    for variant in spec["variants"]:
        if variant["id"] == arm:
            return apply_variant(base, Variant(arm, variant["path"], variant["value"]))
    return base
