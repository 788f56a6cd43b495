"""The loop of one worker: read, step, guard, validate, save, report."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from blake3 import blake3
from longhaul_core.recipe import TrainerConfig

from longhaul_trainer.checkpoint.saver import UPLOAD_SECONDS, Saver
from longhaul_trainer.checkpoint.trainer_state import TrainerState
from longhaul_trainer.data.loader import Loader, Reading
from longhaul_trainer.data.neighbours import consecutive_share
from longhaul_trainer.data.samples import Batch, SampleOrder
from longhaul_trainer.loop.anomaly import Verdict, judge
from longhaul_trainer.loop.control import Control
from longhaul_trainer.loop.drills import Drill
from longhaul_trainer.loop.measurements import device_memory, expert_balance, same_result
from longhaul_trainer.loop.own_time import ForwardClock
from longhaul_trainer.loop.report import Reporter
from longhaul_trainer.loop.rewinding import rewound_state
from longhaul_trainer.loop.saving import Saving
from longhaul_trainer.loop.step import Measured, Stepper
from longhaul_trainer.loop.stops import AnomalyStop, AttemptFailed, Preempted
from longhaul_trainer.loop.throughput import Throughput
from longhaul_trainer.loop.trackers import Trackers
from longhaul_trainer.loop.validation import Validation
from longhaul_trainer.parallel.gate import check_replicas
from longhaul_trainer.parallel.grid import Grid
from longhaul_trainer.parallel.sharding import Built
from longhaul_trainer.wire import Phase, StepRow

NODE_SUSPECT = "NODE_SUSPECT"
"""Type of the event that asks for the nodes to be checked: one of them computes wrongly."""


class History(Protocol):
    """Committed checkpoints, as the loop needs them."""

    def go_back(self, maximum_position: int) -> TrainerState | None:
        """Restores model and optimizer from the newest one of at most this position; None where there is none."""
        ...


@dataclass(slots=True)
class Training:
    """Everything one worker needs to make steps; ``run`` makes them.

    ``saved_position`` is the number of the checkpoint that was restored; -1 where the run begins anew.
    """

    config: TrainerConfig
    grid: Grid
    built: Built
    stepper: Stepper
    orders: list[SampleOrder]
    loader: Loader
    validation: Validation
    saver: Saver
    reporter: Reporter
    control: Control
    throughput: Throughput
    history: History
    trackers: Trackers
    state: TrainerState
    saved_position: int
    drill: Drill = field(default_factory=Drill)
    _saving: Saving = field(init=False)
    _parameter_norm: float = field(default=0.0, init=False)
    _forward: ForwardClock = field(init=False)
    _own_seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        """Listens to the model's forward passes."""
        self._forward = ForwardClock(self.built.model, self.grid.group.device)
        self._saving = Saving(
            self.config, self.grid, self.orders, self.saver, self.reporter, self.control, self.saved_position
        )
        self.drill.attach(self.built.model)

    def run(self) -> None:
        """Makes all steps that are left and commits the last checkpoint.

        Raises:
            AnomalyStop: loss or gradients are out of the ordinary and nothing helped.
            Preempted: a stop was requested and the checkpoint is committed.
            AttemptFailed: the last checkpoint could not be committed, or a newer epoch runs.
        """
        self.reporter.phase(Phase.STEPPING, self.state.step)
        self._enter_stage(self.config.stage_at(self.state.step + 1))
        while self.state.step < self.config.steps:
            stop = self._make_step()
            if self.saver.superseded:
                raise AttemptFailed("A newer epoch of this run has taken over", reason="SUPERSEDED")
            if stop and self.state.step < self.config.steps:
                self.state = self._saving.save_and_wait(self.state)
                raise Preempted(f"Stopped after step {self.state.step}; the checkpoint is committed")
        if self.state.anomalies.left_out:
            raise AnomalyStop(
                f"The last {self.state.anomalies.left_out} updates were left out",
                action="look at the data and the learning rate, then resume from a checkpoint with more steps",
            )
        self.state = self._saving.save_and_wait(self.state)
        self.reporter.phase(Phase.FINISHING, self.state.step)

    def _make_step(self) -> bool:
        """One update, its metrics and what falls due after it; returns whether any rank was asked to stop."""
        started = time.perf_counter()
        step = self.state.step + 1
        self.drill.begin(step)
        batch = self._next_batch(step)
        control = self.control
        signals = (self.saver.busy, control.stop_requested, control.checkpoint_requested)
        measured = self._measure(batch, step, [float(signal) for signal in signals])
        self._own_seconds = self.loader.wait_seconds + self._forward.take()
        verdict = self._judge(batch, step, measured)
        self._saving.join_staging()
        busy, stop, wanted = (signal > 0 for signal in measured.signals)
        if verdict in (Verdict.REWIND, Verdict.STOP):
            self._rewind(step, measured, verdict)
            return stop
        rate = self._settle(measured, step, verdict)
        self._advance(measured, verdict)
        seconds = time.perf_counter() - started
        validation_loss, by_source = self._validate_if_due()
        self._compare_replicas_if_due()
        self._report(measured, rate, seconds, validation_loss, by_source)
        self.state = self._saving.save_if_due(self.state, busy=busy, wanted=wanted)
        return stop

    def _next_batch(self, step: int) -> Batch:
        stage = self.config.stage_at(step)
        if stage != self.state.stage:
            self._enter_stage(stage)
        now = Reading(stage, self.state.sample_cursor, self.config.global_batch_at(step))
        after = self.config.stage_at(step + 1)
        cursor = now.cursor + now.samples if after == stage else 0
        return self.loader.take(now, Reading(after, cursor, self.config.global_batch_at(step + 1)))

    def _enter_stage(self, stage: int) -> None:
        """Takes up the stage's rotary base; its samples are counted from zero."""
        rotary = self.built.model.rotary
        theta = self.config.rope_theta_of_stage(stage)
        if rotary is not None and rotary.theta != theta:
            rotary.theta = theta
            rotary.fill()
        if stage != self.state.stage:
            self.state = self.state.model_copy(update={"stage": stage, "sample_cursor": 0})

    def _measure(self, batch: Batch, step: int, signals: Sequence[float]) -> Measured:
        seed_step(self.config.seed, step, self.grid.group.rank)
        size = self.config.data_of_stage(self.config.stage_at(step)).micro_batch_size
        return self.stepper.measure(batch, signals, size)

    def _judge(self, batch: Batch, step: int, measured: Measured) -> Verdict:
        """The verdict, after a second computation where the first is beyond belief."""
        known, config = self.state.anomalies, self.config.anomalies
        loss, norm = measured.loss, measured.gradient_norm
        verdict = judge(known, config, step, loss, norm, rerun=False)
        if verdict is not Verdict.RERUN:
            return verdict
        self.stepper.discard()
        again = self._measure(batch, step, [0.0] * len(measured.signals))
        if not same_result(measured, again, exact=self.config.runtime.deterministic):
            message = f"Step {step} gave loss {loss} and norm {norm}, then {again.loss} and {again.gradient_norm}"
            self._event(NODE_SUSPECT, "RESULT_DIFFERS", message, step, again)
            raise AttemptFailed(message, reason="RESULT_DIFFERS", action="the node that computed it is to be checked")
        return judge(known, config, step, loss, norm, rerun=True)

    def _settle(self, measured: Measured, step: int, verdict: Verdict) -> float:
        """Takes the update or leaves it out; returns the learning rate."""
        if verdict is Verdict.TAKE:
            return self.stepper.apply(measured, step, self.state.anomalies.rate_factor)
        self.stepper.discard()
        cause = "NOT_FINITE" if not math.isfinite(measured.loss + measured.gradient_norm) else "SPIKE"
        message = f"Step {step} left out: loss {measured.loss}, gradient norm {measured.gradient_norm}"
        self._event("UPDATE_SKIPPED", cause, message, step, measured)
        return 0.0

    def _rewind(self, step: int, measured: Measured, verdict: Verdict) -> None:
        """Goes back to an earlier checkpoint and leaves out the batches around the failure."""
        self.stepper.discard()
        self.saver.finish(UPLOAD_SECONDS)
        earlier = None
        if verdict is Verdict.REWIND:
            earlier = self._earlier_state()
        if earlier is None:
            message = f"Step {step}: loss {measured.loss}, gradient norm {measured.gradient_norm}; nothing has helped"
            self._event("ANOMALY", "ANOMALY_PERSISTS", message, step, measured)
            raise AnomalyStop(message, action="look at the data and the learning rate, then resume from a checkpoint")
        self.state, rewind = rewound_state(self.state, earlier, self.config, step)
        self._enter_stage(self.state.stage)
        left_out, factor = f"{rewind.skipped_from} to {rewind.skipped_to}", self.state.anomalies.rate_factor
        message = (
            f"Step {step}: back to step {rewind.step}; samples {left_out} are left out, learning rate × {factor:g}"
        )
        self._event("REWOUND", "PERSISTENT_SPIKE", message, step, measured)
        self.state = self._saving.start(self.state)

    def _earlier_state(self) -> TrainerState | None:
        """That of `rewind_steps` before; in a young run, the newest one before the failure."""
        position = self.state.position
        for maximum in (position - self.config.anomalies.rewind_steps, position - self.state.anomalies.left_out):
            earlier = self.history.go_back(maximum) if maximum > 0 else None
            if earlier is not None:
                return earlier
        return None

    def _event(self, kind: str, cause: str, message: str, step: int, measured: Measured) -> None:
        if self.grid.group.rank == 0:
            data: dict[str, str | float] = {
                "step": step,
                "loss": str(measured.loss),
                "norm": str(measured.gradient_norm),
            }
            self.reporter.event(kind, cause, message, data)

    def _advance(self, measured: Measured, verdict: Verdict) -> None:
        state, step, config = self.state, self.state.step + 1, self.config
        known = state.anomalies
        if verdict is Verdict.TAKE:
            known = known.observe(measured.loss, measured.gradient_norm, config.anomalies.window_steps)
        else:
            known = known.leave_out()
        self.state = state.model_copy(
            update={
                "step": step,
                "sample_cursor": state.sample_cursor + config.global_batch_at(step),
                "tokens": state.tokens + config.tokens_at(step),
                "loss": measured.loss if verdict is Verdict.TAKE else state.loss,
                "anomalies": known,
            }
        )

    def _compare_replicas_if_due(self) -> None:
        every = self.config.anomalies.replica_check_steps
        if not every or self.state.step % every:
            return
        try:
            check_replicas(self.built.model, self.grid.group)
        except AttemptFailed as failed:
            if self.grid.group.rank == 0:
                data: dict[str, str | float] = {"step": self.state.step}
                self.reporter.event(NODE_SUSPECT, failed.reason, failed.message, data)
            raise

    def _validate_if_due(self) -> tuple[float | None, dict[str, float]]:
        every, step = self.config.validation.every_steps, self.state.step
        if not every or (step % every and step != self.config.steps):
            return None, {}
        self.reporter.phase(Phase.VALIDATING, step)
        loss, by_source = self.validation.measure(self.built.model, self.stepper, self.grid)
        self._parameter_norm = self.stepper.parameter_norm()
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
        self._forward.take()
        self.reporter.phase(Phase.STEPPING, self.state.step, self._own_seconds)
        if self.grid.group.rank != 0:
            return
        extra = {"valid_tokens": float(measured.valid_tokens)}
        extra |= expert_balance(measured) | device_memory(self.grid.group.device)
        samples = self.config.global_batch_at(self.state.step)
        order = self.orders[self.state.stage]
        extra["consecutive_chunks"] = consecutive_share(order, self.state.sample_cursor - samples, samples)
        extra |= {f"validation_loss/{source}": loss for source, loss in by_source.items()}
        if validation_loss is not None:
            extra["parameter_norm"] = self._parameter_norm
            epochs = self.orders[self.state.stage].epochs(self.state.sample_cursor)
            extra |= {f"epochs/{source}": count for source, count in epochs.items()}
        if self.throughput.peak_flops is not None:
            extra["peak_flops"] = self.throughput.peak_flops
        row = StepRow(
            step=self.state.step,
            position=self.state.position,
            time=time.time(),
            loss=measured.loss,
            learning_rate=rate,
            gradient_norm=measured.gradient_norm,
            tokens=self.state.tokens,
            tokens_per_second=self.config.tokens_at(self.state.step) / seconds,
            step_seconds=seconds,
            data_wait_seconds=self.loader.wait_seconds,
            checkpoint_stall_seconds=self._saving.take_stall(),
            validation_loss=validation_loss,
            mfu=self.throughput.utilisation(seconds),
            extra=extra,
        )
        self.reporter.row(row)
        self.trackers.row(row)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds torch's generators from (seed, step, rank), so that random numbers need no saved state."""
    torch.manual_seed(int.from_bytes(blake3(f"{seed}/{step}/{rank}".encode()).digest(7), "little"))
