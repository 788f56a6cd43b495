"""The loop of one worker: read, step, guard, validate, save, report."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from blake3 import blake3
from longhaul_core.recipe import TrainerConfig

from longhaul_trainer.checkpoint.saver import UPLOAD_SECONDS, Saver
from longhaul_trainer.checkpoint.trainer_state import TrainerState
from longhaul_trainer.data.loader import Loader
from longhaul_trainer.data.samples import SampleOrder
from longhaul_trainer.loop.control import Control
from longhaul_trainer.loop.report import Reporter
from longhaul_trainer.loop.step import Measured, Stepper
from longhaul_trainer.loop.stops import AnomalyStop, AttemptFailed, Preempted
from longhaul_trainer.loop.throughput import Throughput
from longhaul_trainer.loop.validation import Validation
from longhaul_trainer.model import Decoder
from longhaul_trainer.parallel.group import RankGroup
from longhaul_trainer.wire import Phase, StepRow

LONGEST_STALL_SECONDS = 5.0
"""How long a step waits for the upload before the one that is due; after that the save is put off."""


@dataclass(slots=True)
class Training:
    """Everything one worker needs to make steps; ``run`` makes them.

    ``saved_step`` is the last step that was handed to the saver, or that was restored.
    """

    config: TrainerConfig
    group: RankGroup
    model: Decoder
    stepper: Stepper
    order: SampleOrder
    loader: Loader
    validation: Validation
    saver: Saver
    reporter: Reporter
    control: Control
    throughput: Throughput
    state: TrainerState
    saved_step: int
    _overdue: bool = field(default=False, init=False)
    _stall_seconds: float = field(default=0.0, init=False)

    def run(self) -> None:
        """Makes all steps that are left and commits the last checkpoint.

        Raises:
            AnomalyStop: loss or gradients are not finite.
            Preempted: a stop was requested and the checkpoint is committed.
            AttemptFailed: the last checkpoint could not be committed, or a newer epoch runs.
        """
        self.reporter.phase(Phase.STEPPING, self.state.step)
        while self.state.step < self.config.steps:
            stop = self._make_step()
            if self.saver.superseded:
                raise AttemptFailed("A newer epoch of this run has taken over", reason="SUPERSEDED")
            if stop and self.state.step < self.config.steps:
                self._save_and_wait()
                raise Preempted(f"Stopped after step {self.state.step}; the checkpoint is committed")
        self._save_and_wait()
        self.reporter.phase(Phase.FINISHING, self.state.step)

    def _make_step(self) -> bool:
        """One update, its metrics and what falls due after it; returns whether any rank was asked to stop."""
        started = time.perf_counter()
        step = self.state.step + 1
        seed_step(self.config.seed, step, self.group.rank)
        batch = self.loader.take(self.state.sample_cursor)
        control = self.control
        signals = (self.saver.busy, control.stop_requested, control.checkpoint_requested)
        measured = self.stepper.measure(batch, [float(signal) for signal in signals])
        self._require_finite(measured, step)
        self._stall_seconds += self.saver.join_staging()
        rate = self.stepper.apply(measured, step)
        busy, stop, wanted = (signal > 0 for signal in measured.signals)
        self._advance(measured.loss)
        seconds = time.perf_counter() - started
        validation_loss, by_source = self._validate_if_due()
        self._report(measured, rate, seconds, validation_loss, by_source)
        self._stall_seconds = 0.0
        self._save_if_due(busy=busy, wanted=wanted)
        return stop

    def _require_finite(self, measured: Measured, step: int) -> None:
        if math.isfinite(measured.loss) and math.isfinite(measured.gradient_norm):
            return
        message = f"Step {step}: loss {measured.loss} and gradient norm {measured.gradient_norm} are not finite"
        if self.group.rank == 0:
            data: dict[str, str | float] = {"step": step, "loss": str(measured.loss)}
            self.reporter.event("ANOMALY", "LOSS_NOT_FINITE", message, data)
        raise AnomalyStop(message, action="resume from an earlier checkpoint with a lower learning rate")

    def _advance(self, loss: float) -> None:
        state, config = self.state, self.config
        cursor = state.sample_cursor + config.data.global_batch_size
        self.state = state.model_copy(
            update={
                "step": state.step + 1,
                "sample_cursor": cursor,
                "tokens": state.tokens + config.tokens_per_step,
                "loss": loss,
            }
        )

    def _validate_if_due(self) -> tuple[float | None, dict[str, float]]:
        every, step = self.config.validation.every_steps, self.state.step
        if not every or (step % every and step != self.config.steps):
            return None, {}
        self.reporter.phase(Phase.VALIDATING, step)
        loss, by_source = self.validation.measure(self.model, self.group)
        self.state = self.state.model_copy(update={"validation_loss": loss})
        self.reporter.phase(Phase.STEPPING, step)
        return loss, by_source

    def _report(
        self,
        measured: Measured,
        rate: float,
        seconds: float,
        validation_loss: float | None,
        by_source: dict[str, float],
    ) -> None:
        self.reporter.phase(Phase.STEPPING, self.state.step)
        if self.group.rank != 0:
            return
        extra = {"valid_tokens": float(measured.valid_tokens)}
        extra |= {f"validation_loss/{source}": loss for source, loss in by_source.items()}
        if validation_loss is not None:
            epochs = self.order.epochs(self.state.sample_cursor)
            extra |= {f"epochs/{source}": count for source, count in epochs.items()}
        if self.throughput.peak_flops is not None:
            extra["peak_flops"] = self.throughput.peak_flops
        self.reporter.row(
            StepRow(
                step=self.state.step,
                time=time.time(),
                loss=measured.loss,
                learning_rate=rate,
                gradient_norm=measured.gradient_norm,
                tokens=self.state.tokens,
                tokens_per_second=self.config.tokens_per_step / seconds,
                step_seconds=seconds,
                data_wait_seconds=self.loader.wait_seconds,
                checkpoint_stall_seconds=self._stall_seconds,
                validation_loss=validation_loss,
                mfu=self.throughput.utilisation(seconds),
                extra=extra,
            )
        )

    def _save_if_due(self, *, busy: bool, wanted: bool) -> None:
        """Starts a save where one is due or overdue and no rank is still writing; the last step's save waits."""
        step = self.state.step
        due = step % self.config.checkpoint.every_steps == 0
        self._overdue |= wanted or due
        if not self._overdue or step == self.config.steps:
            return
        if busy and due:
            busy = self._await_upload()
        if not busy:
            self._start_save()

    def _await_upload(self) -> bool:
        """Holds the step up for an upload that is nearly done, but not for long; whether any rank is still writing."""
        started = time.perf_counter()
        self.reporter.phase(Phase.CHECKPOINTING, self.state.step)
        self.saver.finish(LONGEST_STALL_SECONDS)
        busy = self.group.sum([float(self.saver.busy)])[0] > 0
        self._stall_seconds += time.perf_counter() - started
        self.reporter.phase(Phase.STEPPING, self.state.step)
        return busy

    def _start_save(self) -> None:
        self._overdue = False
        self.saved_step = self.state.step
        self.control.checkpoint_begun()
        epochs = self.order.epochs(self.state.sample_cursor)
        self.state = self.state.model_copy(update={"source_epochs": epochs})
        self.saver.start(self.state)

    def _save_and_wait(self) -> None:
        """Commits the present step, after the save that may still be under way."""
        self.reporter.phase(Phase.CHECKPOINTING, self.state.step)
        committed = self.saver.finish(UPLOAD_SECONDS)
        if self.saved_step != self.state.step and not self.saver.busy:
            self._start_save()
            committed = self.saver.finish(UPLOAD_SECONDS)
        if not committed:
            raise AttemptFailed(
                f"The checkpoint of step {self.state.step} could not be committed",
                reason="CHECKPOINT_FAILED",
                action="see the events of the run; the next attempt goes on from the last committed checkpoint",
            )


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds torch's generators from (seed, step, rank), so that random numbers need no saved state."""
    torch.manual_seed(int.from_bytes(blake3(f"{seed}/{step}/{rank}".encode()).digest(7), "little"))
