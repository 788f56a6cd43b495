"""Evaluations and suites as rows of the resource table, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from longhaul_core.db import ResourceRow

from longhaul_evaluation.domain.evaluation import Evaluation, EvaluationSpec, MetricScore, Reason, Selection, State
from longhaul_evaluation.domain.suite import Counts, Suite, SuiteSpec

EVALUATION_KIND = "evaluation"
SUITE_KIND = "evaluation-suite"


def evaluation_of(row: ResourceRow) -> Evaluation:
    """Read the row of an evaluation."""
    spec, status = row.spec, row.status
    return Evaluation(
        project=row.project,
        id=row.id,
        uid=row.uid,
        spec=EvaluationSpec(
            spec["checkpoint"], spec["token_set"], _selections(spec["tasks"]), spec["batch_size"], spec["seed"]
        ),
        state=State(row.state),
        training_run=status["training_run"],
        step=status["step"],
        epoch=status["epoch"],
        suite=status["suite"],
        reason=_reason_of(status.get("reason")),
        task=status.get("task", ""),
        result_key=status.get("result_key", ""),
        attempts=status.get("attempts", 0),
        scores=tuple(_score_of(score) for score in status.get("scores", ())),
        start_time=_time_of(status.get("start_time")),
        end_time=_time_of(status.get("end_time")),
    )


def evaluation_spec_to(spec: EvaluationSpec) -> dict[str, Any]:
    """Return the spec column of an evaluation."""
    return {**asdict(spec), "tasks": [asdict(selection) for selection in spec.tasks]}


def evaluation_status_to(evaluation: Evaluation) -> dict[str, Any]:
    """Return the status column of an evaluation."""
    return {
        "training_run": evaluation.training_run,
        "step": evaluation.step,
        "epoch": evaluation.epoch,
        "suite": evaluation.suite,
        "reason": _reason_to(evaluation.reason),
        "task": evaluation.task,
        "result_key": evaluation.result_key,
        "attempts": evaluation.attempts,
        "scores": [_score_to(score) for score in evaluation.scores],
        "start_time": _time_to(evaluation.start_time),
        "end_time": _time_to(evaluation.end_time),
    }


def suite_of(row: ResourceRow) -> Suite:
    """Read the row of a suite."""
    spec, status = row.spec, row.status
    return Suite(
        project=row.project,
        id=row.id,
        spec=SuiteSpec(
            spec["training_run"],
            spec["token_set"],
            _selections(spec["tasks"]),
            spec["every_steps"],
            spec["batch_size"],
            spec["seed"],
        ),
        state=State(row.state),
        reason=_reason_of(status.get("reason")),
        checkpoint_revision=status["checkpoint_revision"],
        counts=Counts(**status["counts"]),
        complete=status["complete"],
        run_failed=status["run_failed"],
    )


def suite_spec_to(spec: SuiteSpec) -> dict[str, Any]:
    """Return the spec column of a suite."""
    return {**asdict(spec), "tasks": [asdict(selection) for selection in spec.tasks]}


def suite_status_to(suite: Suite) -> dict[str, Any]:
    """Return the status column of a suite."""
    return {
        "reason": _reason_to(suite.reason),
        "checkpoint_revision": suite.checkpoint_revision,
        "counts": asdict(suite.counts),
        "complete": suite.complete,
        "run_failed": suite.run_failed,
    }


def _selections(stored: list[dict[str, Any]]) -> tuple[Selection, ...]:
    return tuple(Selection(**selection) for selection in stored)


def _score_of(stored: Mapping[str, Any]) -> MetricScore:
    error = stored["standard_error"]
    return MetricScore(**{**stored, "standard_error": math.nan if error is None else error})


def _score_to(score: MetricScore) -> dict[str, Any]:
    error = None if math.isnan(score.standard_error) else score.standard_error
    return {**asdict(score), "standard_error": error}


def _reason_of(stored: Mapping[str, Any] | None) -> Reason | None:
    return Reason(**stored) if stored else None


def _reason_to(reason: Reason | None) -> dict[str, Any] | None:
    return {**asdict(reason), "metadata": dict(reason.metadata)} if reason else None


def _time_of(stored: str | None) -> datetime | None:
    return datetime.fromisoformat(stored) if stored else None


def _time_to(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
