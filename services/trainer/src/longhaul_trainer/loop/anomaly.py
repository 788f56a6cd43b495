"""What to do about a step that is out of the ordinary, from its loss and gradient norm and those before it.

| anomaly | action |
|---|---|
| above `rerun_factor` times the largest seen, or not finite | compute the step again; another result accuses the node |
| the same result again, or above mean + `spike_sigmas` deviations of the window | leave the update out |
| `patience` updates left out in a row | go back `rewind_steps` and leave out `skip_batches` batches |
| a second time in the same place | the same, and cut the learning rate |
| a third time | stop: a human must look |

Judged before the update, from numbers that are the same on every rank, so that all ranks decide alike. Small spikes as
in OLMo-core (one-sided), large ones as in Megatron-LM, rewinds as in PaLM.
"""

from __future__ import annotations

import math
from enum import StrEnum

from longhaul_core.recipe import AnomalyConfig
from pydantic import BaseModel, ConfigDict


class Verdict(StrEnum):
    """What becomes of a step."""

    TAKE = "take"
    RERUN = "rerun"
    SKIP = "skip"
    REWIND = "rewind"
    STOP = "stop"


class Rewind(BaseModel):
    """A return to an earlier step. ``failed_step``: where it was needed; skipped samples are of one context stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    failed_step: int
    step: int
    stage: int
    skipped_from: int
    skipped_to: int


class AnomalyState(BaseModel):
    """The part of the resume state that judging needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    losses: tuple[float, ...] = ()
    norms: tuple[float, ...] = ()
    largest_loss: float = 0.0
    largest_norm: float = 0.0
    left_out: int = 0
    left_out_in_all: int = 0
    rate_factor: float = 1.0
    rewinds: tuple[Rewind, ...] = ()

    def observe(self, loss: float, norm: float, window: int) -> AnomalyState:
        """After an update that was taken."""
        return self.model_copy(
            update={
                "losses": (*self.losses, loss)[-window:],
                "norms": (*self.norms, norm)[-window:],
                "largest_loss": max(self.largest_loss, loss),
                "largest_norm": max(self.largest_norm, norm),
                "left_out": 0,
            }
        )

    def leave_out(self) -> AnomalyState:
        """After an update that was not taken."""
        return self.model_copy(update={"left_out": self.left_out + 1, "left_out_in_all": self.left_out_in_all + 1})

    def rewound(self, rewind: Rewind, rate_cut: float) -> AnomalyState:
        """After a return to an earlier step; the window is forgotten, as it holds the way into the spike."""
        factor = self.rate_factor * (rate_cut if self.times_at(rewind.failed_step) else 1.0)
        return AnomalyState(
            largest_loss=self.largest_loss,
            largest_norm=self.largest_norm,
            left_out_in_all=self.left_out_in_all,
            rate_factor=factor,
            rewinds=(*self.rewinds, rewind),
        )

    def times_at(self, step: int) -> int:
        """Rewinds that were needed in the same place: between where they went back to and a little past the failure."""
        return sum(one.step <= step <= 2 * one.failed_step - one.step for one in self.rewinds)


def judge(state: AnomalyState, config: AnomalyConfig, step: int, loss: float, norm: float, *, rerun: bool) -> Verdict:
    """The verdict on a step that was computed once (or, with ``rerun``, twice with the same result)."""
    enough = len(state.losses) >= config.minimum_samples
    finite = math.isfinite(loss) and math.isfinite(norm)
    extreme = not finite
    if finite and enough and config.rerun_factor:
        extreme = loss > config.rerun_factor * state.largest_loss or norm > config.rerun_factor * state.largest_norm
    if extreme and not rerun:
        return Verdict.RERUN
    if not extreme and not (enough and config.spike_sigmas and _spikes(state, config, loss, norm)):
        return Verdict.TAKE
    if state.left_out + 1 < config.patience:
        return Verdict.SKIP
    return Verdict.STOP if state.times_at(step) >= 2 else Verdict.REWIND


def _spikes(state: AnomalyState, config: AnomalyConfig, loss: float, norm: float) -> bool:
    return _above(loss, state.losses, config.spike_sigmas) or _above(norm, state.norms, config.spike_sigmas)


def _above(value: float, window: tuple[float, ...], sigmas: float) -> bool:
    mean = math.fsum(window) / len(window)
    variance = math.fsum((each - mean) ** 2 for each in window) / max(1, len(window) - 1)
    return value > mean + sigmas * math.sqrt(variance) and value > mean * (1 + 1e-9)
