"""What task pods are told and what they answer: the JSON of `LONGHAUL_TASK_ARGUMENTS` and of the result object.

Both sides use these models: the service that asks for a task, and the trainer's entry point that runs it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ManifestReference(_Document):
    """A committed resource: its name, the key of its manifest and the manifest's digest."""

    name: str
    manifest_key: str
    digest: str


class ScoreSelection(_Document):
    """One evaluation task of the token set; `limit` 0 takes all items."""

    task: str
    few_shot: int = Field(0, ge=0)
    limit: int = Field(0, ge=0)


class ScoreArguments(_Document):
    """Arguments of a score task."""

    checkpoint: ManifestReference
    token_set: ManifestReference
    tasks: tuple[ScoreSelection, ...]
    batch_size: int = Field(gt=0)
    seed: int = 0


class ItemScore(_Document):
    """The result of one item. A score is sum(value) / sum(weight).

    For accuracy `value` is 0 or 1 and `weight` 1; for bits per byte they are the item's bits and its bytes. `cluster`
    names what the item shares with others (its document); items without one are independent.
    """

    id: str
    cluster: str = ""
    value: float
    weight: float = 1.0


class TaskScore(_Document):
    """All items of one task under one metric; `chance` is the score of guessing, where there is one."""

    task: str
    few_shot: int = 0
    metric: str
    higher_is_better: bool
    chance: float | None = None
    items: tuple[ItemScore, ...]


class ScoreResult(_Document):
    """Result of a score task."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True
    )

    schema_: Literal["longhaul.scores/v1"] = Field(default="longhaul.scores/v1", alias="schema")
    checkpoint_digest: str
    token_set_digest: str
    step: int
    scores: tuple[TaskScore, ...]


class ExportArguments(_Document):
    """Arguments of an export task: the files go below `prefix`."""

    checkpoint: ManifestReference
    format: Literal["huggingface"]
    prefix: str


class ExportResult(_Document):
    """Result of an export task: the keys that were written, with their digests."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    schema_: Literal["longhaul.export/v1"] = Field(default="longhaul.export/v1", alias="schema")
    checkpoint_digest: str
    files: dict[str, str]


class ImportArguments(_Document):
    """Arguments of an import task: a folder in Hugging Face's form becomes parts below `prefix`."""

    source: str
    prefix: str
    name: str


class ImportedPart(_Document):
    """One object of an imported checkpoint."""

    key: str
    size: int
    digest: str


class ImportResult(_Document):
    """Result of an import task; `lineage` says where the model comes from and which recipe section it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    schema_: Literal["longhaul.import/v1"] = Field(default="longhaul.import/v1", alias="schema")
    parts: tuple[ImportedPart, ...]
    lineage: dict[str, str | int]


class TaskFailure(_Document):
    """Why a task failed, in words for the user."""

    message: str
    action: str = ""


def failure_key(result_key: str) -> str:
    """Where a task says why it failed."""
    return f"{result_key}.failed"


class BurnInArguments(_Document):
    """How hard and how long each device is tested. Zeros choose sizes that fit the device."""

    seconds: float = Field(10.0, gt=0, le=3600)
    matrix_size: int = Field(0, ge=0)
    memory_bytes: int = Field(0, ge=0)
    minimum_tflops: float = Field(0.0, ge=0)
    minimum_bandwidth_gigabytes: float = Field(0.0, ge=0)
    peer_share: float = Field(0.1, gt=0, lt=1)


class BurnInFigure(_Document):
    """One figure of one device (-1: of the node as a whole); greater is better."""

    gpu: int
    name: str
    value: float
    unit: str


class BurnInResult(_Document):
    """What was measured; `failures` is empty where the node passed. `device` is the model, or `cpu`."""

    device: str
    gpus: int
    passed: bool
    failures: tuple[str, ...]
    figures: tuple[BurnInFigure, ...]
    memory_bytes_checked: int
    memory_errors: int
    product_mismatches: int
    seconds: float
