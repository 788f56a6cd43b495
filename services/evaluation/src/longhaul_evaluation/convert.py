"""Protobuf on one side, the domain and the catalogue's rows on the other."""

from __future__ import annotations

from collections.abc import Sequence

from longhaul.common.v1 import resource_pb2
from longhaul.evaluation.v1 import evaluation_pb2 as pb
from longhaul_core.db import ResourceRow
from longhaul_core.errors import InvalidArgument
from longhaul_core.ids import ANY_PROJECT, Collection, ResourceName, parse_name, parse_parent
from longhaul_core.rpc.times import timestamp_of
from longhaul_core.tasks import TaskScore

from longhaul_evaluation.adapters.records import evaluation_of, suite_of
from longhaul_evaluation.domain.curve import CurvePoint, TaskQuality
from longhaul_evaluation.domain.evaluation import (
    DEFAULT_BATCH_SIZE,
    EvaluationSpec,
    MetricScore,
    Reason,
    Selection,
    State,
    check_selections,
)
from longhaul_evaluation.domain.statistics import PairedDifference
from longhaul_evaluation.domain.suite import SuiteSpec

MAXIMUM_BATCH_SIZE = 4096

_STATES = {
    State.QUEUED: resource_pb2.JOB_STATE_QUEUED,
    State.WAITING_FOR_INPUTS: resource_pb2.JOB_STATE_WAITING_FOR_INPUTS,
    State.RUNNING: resource_pb2.JOB_STATE_RUNNING,
    State.CANCELLING: resource_pb2.JOB_STATE_CANCELLING,
    State.SUCCEEDED: resource_pb2.JOB_STATE_SUCCEEDED,
    State.FAILED: resource_pb2.JOB_STATE_FAILED,
    State.CANCELLED: resource_pb2.JOB_STATE_CANCELLED,
}


def evaluation_name_of(name: str, field: str = "name") -> ResourceName:
    """Split the name of an evaluation."""
    return parse_name(name, Collection.EVALUATIONS, field)


def suite_name_of(name: str, field: str = "name") -> ResourceName:
    """Split the name of a suite."""
    return parse_name(name, Collection.EVALUATION_SUITES, field)


def run_name_of(name: str, field: str = "training_run") -> ResourceName:
    """Split the name of a run."""
    return parse_name(name, Collection.TRAINING_RUNS, field)


def list_filter_of(request: pb.ListEvaluationsRequest) -> tuple[str, str]:
    """Return the project and the run (empty: all) of a List. Raises InvalidArgument."""
    project = parse_parent(request.parent, any_project=True)
    if not request.training_run:
        return project, ""
    run = run_name_of(request.training_run)
    if project not in (ANY_PROJECT, run.project):
        raise InvalidArgument(
            f"{request.training_run!r} is not in project {project!r}",
            reason="PROJECT_DIFFERS",
            violations=[("training_run", f"is in project {run.project!r}")],
        )
    return run.project, str(run)


def evaluation_spec_of(spec: pb.EvaluationSpec, project: str) -> EvaluationSpec:
    """Return what an evaluation is to score. Raises InvalidArgument."""
    checkpoint = parse_name(spec.checkpoint, Collection.CHECKPOINTS, "spec.checkpoint")
    token_set = parse_name(spec.token_set, Collection.TOKEN_SETS, "spec.token_set")
    _check_project(project, checkpoint, token_set)
    tasks, batch_size = _tasks_of(spec.tasks), _batch_size_of(spec.batch_size)
    return EvaluationSpec(str(checkpoint), str(token_set), tasks, batch_size, spec.seed)


def suite_spec_of(spec: pb.EvaluationSuiteSpec, project: str) -> SuiteSpec:
    """Return what a suite is to evaluate. Raises InvalidArgument."""
    run = run_name_of(spec.training_run, "spec.training_run")
    token_set = parse_name(spec.token_set, Collection.TOKEN_SETS, "spec.token_set")
    _check_project(project, run, token_set)
    if spec.every_steps < 0:
        raise InvalidArgument(
            "every_steps is negative", violations=[("spec.every_steps", f"{spec.every_steps} is below 0")]
        )
    tasks, batch_size = _tasks_of(spec.tasks), _batch_size_of(spec.batch_size)
    return SuiteSpec(str(run), str(token_set), tasks, spec.every_steps, batch_size, spec.seed)


def evaluation_to_proto(row: ResourceRow) -> pb.Evaluation:
    """Return an evaluation as the API shows it."""
    evaluation = evaluation_of(row)
    status = pb.EvaluationStatus(
        state=_STATES[evaluation.state],
        scores=[_score(score) for score in evaluation.scores],
        task=evaluation.task,
        result_key=evaluation.result_key,
        step=evaluation.step,
        training_run=evaluation.training_run,
        attempts=evaluation.attempts,
    )
    if evaluation.reason is not None:
        status.reason.CopyFrom(_reason(evaluation.reason))
    if evaluation.start_time is not None:
        status.start_time.CopyFrom(timestamp_of(evaluation.start_time))
    if evaluation.end_time is not None:
        status.end_time.CopyFrom(timestamp_of(evaluation.end_time))
    spec = evaluation.spec
    return pb.Evaluation(
        metadata=_metadata(row, evaluation.name),
        spec=pb.EvaluationSpec(
            checkpoint=spec.checkpoint,
            token_set=spec.token_set,
            tasks=_selections(spec.tasks),
            batch_size=spec.batch_size,
            seed=spec.seed,
        ),
        status=status,
    )


def suite_to_proto(row: ResourceRow) -> pb.EvaluationSuite:
    """Return a suite as the API shows it."""
    suite = suite_of(row)
    counts, spec = suite.counts, suite.spec
    status = pb.EvaluationSuiteStatus(
        state=_STATES[suite.state],
        evaluations=counts.evaluations,
        succeeded=counts.succeeded,
        failed=counts.failed,
        skipped=counts.skipped,
        checkpoint_revision=suite.checkpoint_revision,
    )
    if suite.reason is not None:
        status.reason.CopyFrom(_reason(suite.reason))
    return pb.EvaluationSuite(
        metadata=_metadata(row, str(ResourceName(row.project, Collection.EVALUATION_SUITES, row.id))),
        spec=pb.EvaluationSuiteSpec(
            training_run=spec.training_run,
            token_set=spec.token_set,
            tasks=_selections(spec.tasks),
            every_steps=spec.every_steps,
            batch_size=spec.batch_size,
            seed=spec.seed,
        ),
        status=status,
    )


def differences_to_proto(differences: Sequence[tuple[TaskScore, PairedDifference]]) -> pb.CompareEvaluationsResponse:
    """Return a comparison as the API shows it."""
    return pb.CompareEvaluationsResponse(differences=[_difference(task, found) for task, found in differences])


def curve_to_proto(points: Sequence[CurvePoint], qualities: Sequence[TaskQuality]) -> pb.ScoreCurve:
    """Return a curve as the API shows it."""
    return pb.ScoreCurve(
        points=[
            pb.ScorePoint(step=point.step, checkpoint=point.checkpoint, scores=[_score(it) for it in point.scores])
            for point in points
        ],
        quality=[
            pb.TaskQuality(
                task=quality.key[0],
                few_shot=quality.key[1],
                metric=quality.key[2],
                spearman=quality.spearman,
                above_chance=quality.above_chance,
                signal_to_noise=quality.signal_to_noise,
            )
            for quality in qualities
        ],
    )


def _tasks_of(tasks: Sequence[pb.TaskSelection]) -> tuple[Selection, ...]:
    selections = tuple(Selection(task.task, task.few_shot, task.limit) for task in tasks)
    check_selections(selections)
    return selections


def _batch_size_of(batch_size: int) -> int:
    if not 0 <= batch_size <= MAXIMUM_BATCH_SIZE:
        raise InvalidArgument(
            f"a batch of {batch_size}", violations=[("spec.batch_size", f"not in 0 to {MAXIMUM_BATCH_SIZE}")]
        )
    return batch_size or DEFAULT_BATCH_SIZE


def _check_project(project: str, *names: ResourceName) -> None:
    for name in names:
        if name.project != project:
            raise InvalidArgument(
                f"{str(name)!r} is not in project {project!r}",
                reason="PROJECT_DIFFERS",
                violations=[(f"spec.{name.collection}", f"is in project {name.project!r}")],
            )


def _selections(tasks: Sequence[Selection]) -> list[pb.TaskSelection]:
    return [pb.TaskSelection(task=it.task, few_shot=it.few_shot, limit=it.limit) for it in tasks]


def _score(score: MetricScore) -> pb.Score:
    return pb.Score(
        task=score.task,
        few_shot=score.few_shot,
        metric=score.metric,
        value=score.value,
        standard_error=score.standard_error,
        items=score.items,
        higher_is_better=score.higher_is_better,
        chance=score.chance,
    )


def _difference(task: TaskScore, found: PairedDifference) -> pb.PairedDifference:
    return pb.PairedDifference(
        task=task.task,
        few_shot=task.few_shot,
        metric=task.metric,
        first=found.score_a.value,
        second=found.score_b.value,
        difference=found.difference,
        standard_error=found.standard_error,
        interval_low=found.bootstrap.low,
        interval_high=found.bootstrap.high,
        items=found.score_a.items,
        clusters=found.score_a.clusters,
        normal_low=found.normal.low,
        normal_high=found.normal.high,
        p_value=found.p_value,
        higher_is_better=task.higher_is_better,
    )


def _metadata(row: ResourceRow, name: str) -> resource_pb2.Metadata:
    return resource_pb2.Metadata(
        name=name,
        uid=row.uid,
        revision=row.revision,
        fingerprint=row.fingerprint,
        create_time=timestamp_of(row.created_at),
        update_time=timestamp_of(row.updated_at),
    )


def _reason(reason: Reason) -> resource_pb2.StateReason:
    return resource_pb2.StateReason(
        code=reason.code, message=reason.message, action=reason.action, metadata=dict(reason.metadata)
    )
