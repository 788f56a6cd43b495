"""What agent and worker say to each other: JSON lines over a socket pair that the worker inherits. Free of torch.

JSON keeps every bit of a float, so that a loss arrives as it was computed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter


class Phase(StrEnum):
    """What a worker is busy with."""

    STARTING = "starting"
    RESTORING = "restoring"
    STEPPING = "stepping"
    CHECKPOINTING = "checkpointing"
    VALIDATING = "validating"
    FINISHING = "finishing"


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class PhaseChange(_Message):
    """What the worker does from now on; also sent after each step as a sign of life.

    ``own_seconds``: the step's time that the rank spent on its own work rather than waiting for others; 0: unknown.
    """

    type: Literal["phase"] = "phase"
    phase: Phase
    step: int
    own_seconds: float = 0.0


class StepRow(_Message):
    """Metrics of one optimizer step, from rank 0.

    ``position``: steps made, those thrown away by rewinds included.
    """

    type: Literal["row"] = "row"
    step: int
    position: int
    time: float
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    tokens_per_second: float
    step_seconds: float
    data_wait_seconds: float
    checkpoint_stall_seconds: float
    validation_loss: float | None = None
    mfu: float | None = None
    extra: dict[str, float] = {}


class Event(_Message):
    """Something worth an event of the run."""

    type: Literal["event"] = "event"
    kind: str
    cause: str
    message: str
    time: float
    data: dict[str, str | float] = {}


class Committed(_Message):
    """Rank 0 saw a checkpoint committed."""

    type: Literal["committed"] = "committed"
    checkpoint: str
    step: int
    stall_seconds: float
    write_seconds: float


class Finished(_Message):
    """All steps are made and the last checkpoint is committed; from rank 0."""

    type: Literal["finished"] = "finished"
    step: int


class Failed(_Message):
    """Why the worker is about to exit with an error."""

    type: Literal["failed"] = "failed"
    message: str


WorkerMessage = Annotated[PhaseChange | StepRow | Event | Committed | Finished | Failed, Field(discriminator="type")]
WORKER_MESSAGE: TypeAdapter[WorkerMessage] = TypeAdapter(WorkerMessage)


class Assignment(_Message):
    """Makes a worker a rank of an epoch. Rank 0 of several ranks gets the rendezvous socket along with it."""

    type: Literal["assignment"] = "assignment"
    project: str
    run: str
    epoch: int
    rank: int
    local_rank: int
    world_size: int
    rendezvous: str
    listens: bool
    trainer_config: dict[str, object]
    token_set_manifest_key: str
    resume_manifest_key: str = ""
    resume_checkpoint: str = ""
    object_store_url: str
    checkpoint_address: str
    token: SecretStr = SecretStr("")
    keeper_address: str = ""
    keeper_secret: SecretStr = SecretStr("")
    tls_ca_pem: str = ""
    scratch_dir: str
    failpoints: str = ""
    program: str = "train"
    node: str = ""
    image: str = ""

    @property
    def run_name(self) -> str:
        """Full name of the training run."""
        return f"projects/{self.project}/trainingRuns/{self.run}"


class Request(_Message):
    """Asks a training worker for a checkpoint, or for a checkpoint and its end."""

    type: Literal["request"] = "request"
    stop_after: bool


AgentMessage = Annotated[Assignment | Request, Field(discriminator="type")]
AGENT_MESSAGE: TypeAdapter[AgentMessage] = TypeAdapter(AgentMessage)
