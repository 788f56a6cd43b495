"""When checkpoints are written, and how long that holds up a step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from longhaul_core.recipe import TrainerConfig

from longhaul_trainer.checkpoint.saver import UPLOAD_SECONDS, Saver
from longhaul_trainer.checkpoint.trainer_state import TrainerState
from longhaul_trainer.data.samples import SampleOrder
from longhaul_trainer.loop.control import Control
from longhaul_trainer.loop.report import Reporter
from longhaul_trainer.loop.stops import AttemptFailed
from longhaul_trainer.parallel.grid import Grid
from longhaul_trainer.wire import Phase

LONGEST_STALL_SECONDS = 5.0
"""How long a step waits for the upload before the one that is due; after that the save is put off."""


@dataclass(slots=True)
class Saving:
    """Starts saves where they fall due.

    ``saved_position`` is the number of the last checkpoint that was handed to the saver, or that was restored.
    """

    config: TrainerConfig
    grid: Grid
    orders: Sequence[SampleOrder]
    saver: Saver
    reporter: Reporter
    control: Control
    saved_position: int
    _overdue: bool = field(default=False, init=False)
    _stall_seconds: float = field(default=0.0, init=False)

    def join_staging(self) -> None:
        """Waits until the tensors may change again."""
        self._stall_seconds += self.saver.join_staging()

    def take_stall(self) -> float:
        """Seconds that saving held up the steps since the last call."""
        taken, self._stall_seconds = self._stall_seconds, 0.0
        return taken

    def save_if_due(self, state: TrainerState, *, busy: bool, wanted: bool) -> TrainerState:
        """Starts a save where one is due or overdue and no rank is still writing; the last step's save waits.

        Nothing is saved while updates are left out: what computes them may be worthless.
        """
        if state.anomalies.left_out:
            return state
        due = state.step % self.config.checkpoint.every_steps == 0
        self._overdue |= wanted or due
        if not self._overdue or state.step == self.config.steps:
            return state
        if busy and due:
            busy = self._await_upload(state.step)
        return state if busy else self.start(state)

    def start(self, state: TrainerState) -> TrainerState:
        """Begins to save this state, and returns it as it is saved."""
        self._overdue = False
        self.saved_position = state.position
        self.control.checkpoint_begun()
        saved = state.model_copy(update={"source_epochs": self.orders[state.stage].epochs(state.sample_cursor)})
        self.saver.start(saved)
        return saved

    def save_and_wait(self, state: TrainerState) -> TrainerState:
        """Commits the present step, after the save that may still be under way.

        Raises:
            AttemptFailed: it could not be committed.
        """
        self.reporter.phase(Phase.CHECKPOINTING, state.step)
        committed = self.saver.finish(UPLOAD_SECONDS)
        unsaved = self.saved_position != state.position and not state.anomalies.left_out
        if unsaved and not self.saver.busy:
            state = self.start(state)
            committed = self.saver.finish(UPLOAD_SECONDS)
        if not committed:
            raise AttemptFailed(
                f"The checkpoint of step {state.step} could not be committed",
                reason="CHECKPOINT_FAILED",
                action="see the events of the run; the next attempt goes on from the last committed checkpoint",
            )
        return state

    def _await_upload(self, step: int) -> bool:
        """Holds the step up for an upload that is nearly done, but not for long; whether any rank is still writing."""
        started = time.perf_counter()
        self.reporter.phase(Phase.CHECKPOINTING, step)
        self.saver.finish(LONGEST_STALL_SECONDS)
        busy = self.grid.group.sum([float(self.saver.busy)])[0] > 0
        self._stall_seconds += time.perf_counter() - started
        self.reporter.phase(Phase.STEPPING, step)
        return busy
