"""The part of a run's state that is no tensor: JSON, small, complete."""

from __future__ import annotations

from typing import Any, Literal

from longhaul_core.errors import DataLoss
from longhaul_core.recipe import TrainerConfig
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from longhaul_trainer.loop.anomaly import AnomalyState

TRAINER_STATE_FILE = "trainer_state.json"


class Lineage(BaseModel):
    """Where a checkpoint comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config_digest: str
    token_set: str
    token_set_digest: str
    tokenizer_key: str
    tokenizer_digest: str
    eos_id: int
    code_version: str
    torch_version: str
    world_size: int
    threads_per_worker: int
    device: str
    environment: dict[str, str] = {}
    parent: str = ""


class RandomState(BaseModel):
    """How random numbers go on: generators are seeded anew each step from these, so that no layout matters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheme: Literal["seed-step-rank"] = "seed-step-rank"
    seed: int


class TrainerState(BaseModel):
    """Progress of a run after ``step`` updates, and the configuration that made it.

    ``stage``: context stage that ``sample_cursor`` counts in. ``rewound_steps``: steps that were thrown away.
    ``shape``: the decoder's sizes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    schema_: Literal["longhaul.trainer-state/v1"] = Field(default="longhaul.trainer-state/v1", alias="schema")
    step: int
    sample_cursor: int
    stage: int = 0
    rewound_steps: int = 0
    tokens: int
    epoch: int
    anomalies: AnomalyState = AnomalyState()
    random: RandomState
    source_epochs: dict[str, float]
    loss: float | None = None
    validation_loss: float | None = None
    lineage: Lineage
    shape: dict[str, Any]
    config: TrainerConfig

    @property
    def position(self) -> int:
        """Number of the checkpoint: steps made, those thrown away included, so that it never falls."""
        return self.step + self.rewound_steps


def parse_trainer_state(key: str, data: bytes) -> TrainerState:
    """Reads the state back.

    Raises:
        DataLoss: it does not fit the schema (PART_MALFORMED).
    """
    try:
        return TrainerState.model_validate_json(data)
    except ValidationError as error:
        raise DataLoss(
            f"Checkpoint part {key} is not a trainer state: {error}",
            reason="PART_MALFORMED",
            metadata={"key": key},
            action="resume from an earlier checkpoint",
        ) from error
