"""Faults that an operator plants in a run on purpose, to see that they are noticed, named and recovered from.

They are written into the environment of a run's pods (`pod.env` of the recipe) as `TRAINER_DRILL`, for example
`step=0.05`, `hang=20@rank=1@epoch=1` or, several at once, `loader=0.002,step=0.3@node=node-2`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from longhaul_core.errors import InvalidArgument
from torch import Tensor, nn

from longhaul_trainer.data.loader import Reading
from longhaul_trainer.parallel.slices import local_box
from longhaul_trainer.wire import Assignment

VARIABLE = "TRAINER_DRILL"
_NAP_SECONDS = 0.2


class Fault(StrEnum):
    """What can be planted, each with a number."""

    STEP = "step"
    """Every step computes so many seconds longer."""
    LOADER = "loader"
    """The batch of step n comes n times so many seconds late."""
    HANG = "hang"
    """Step so many never ends."""
    CORRUPT = "corrupt"
    """The first result of step so many is not a number; computed again, it is right."""
    GEMM = "gemm"
    """Checks of the node find this share of the speed of its matrix products."""
    ORDER = "order"
    """Samples come in the order of the text (any number)."""
    SHARDS = "shards"
    """Every rank draws the same initial values for its shards (any number)."""


class Condition(StrEnum):
    """Where a fault is planted: everywhere, or only where all conditions hold."""

    RANK = "rank"
    NODE = "node"
    EPOCH = "epoch"


@dataclass(slots=True)
class Drill:
    """The faults of one worker; without any it does nothing."""

    faults: Mapping[Fault, float] = field(default_factory=dict)
    _due: bool = field(default=False, init=False)
    _corrupt: bool = field(default=False, init=False)

    @classmethod
    def parse(cls, text: str, *, rank: int, node: str, epoch: int) -> Drill:
        """Reads the variable and keeps what is meant for this worker.

        Raises:
            InvalidArgument: an entry that is none, with what is known.
        """
        here = {Condition.RANK: str(rank), Condition.NODE: node, Condition.EPOCH: str(epoch)}
        faults = {}
        for entry in filter(None, (entry.strip() for entry in text.split(","))):
            try:
                planted, *conditions = (_split(part) for part in entry.split("@"))
                fault, amount = Fault(planted[0]), float(planted[1])
                meant = all(here[Condition(name)] == value for name, value in conditions)
            except ValueError as error:
                raise _unknown(entry) from error
            if not math.isfinite(amount) or amount <= 0:
                raise _unknown(entry)
            if meant:
                faults[fault] = amount
        return cls(faults)

    def attach(self, model: nn.Module) -> None:
        """Lets the forward pass take the additional time, so that it counts as the rank's own."""
        if Fault.STEP in self.faults:
            model.register_forward_pre_hook(self._dawdle)
        if Fault.CORRUPT in self.faults:
            model.register_forward_hook(self._miscompute)

    def begin(self, step: int) -> None:
        """A step begins; the planted hang does not return."""
        self._due = True
        self._corrupt = self.faults.get(Fault.CORRUPT) == step
        while self.faults.get(Fault.HANG) == step:
            time.sleep(_NAP_SECONDS)

    def delay(self, reading: Reading) -> float:
        """Seconds by which a batch comes late."""
        return self.faults.get(Fault.LOADER, 0.0) * (reading.cursor // max(1, reading.samples))

    @property
    def shuffles(self) -> bool:
        """Whether samples are shuffled, as they should be."""
        return Fault.ORDER not in self.faults

    def measured_speed(self, value: float) -> float:
        """The speed of matrix products as a check of this node finds it."""
        return value * self.faults.get(Fault.GEMM, 1.0)

    @torch.no_grad()
    def spoil(self, model: nn.Module) -> None:
        """Gives this rank's shards the values that every other rank's get."""
        if Fault.SHARDS not in self.faults:
            return
        for parameter in model.parameters():
            local = local_box(parameter).local
            local.copy_(torch.linspace(-0.02, 0.02, max(1, local.numel()))[: local.numel()].view_as(local))

    def _miscompute(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        corrupt, self._corrupt = self._corrupt, False
        return output * math.nan if corrupt else None

    def _dawdle(self, *_: Any) -> None:
        if self._due:
            time.sleep(self.faults[Fault.STEP])
        self._due = False


def planted(assignment: Assignment) -> Drill:
    """What the environment plants in the worker of an assignment; raises InvalidArgument."""
    text = os.environ.get(VARIABLE, "")
    return Drill.parse(text, rank=assignment.rank, node=assignment.node, epoch=assignment.epoch)


def _split(part: str) -> tuple[str, str]:
    name, separator, value = part.partition("=")
    if not separator:
        raise ValueError(part)
    return name.strip(), value.strip()


def _unknown(entry: str) -> InvalidArgument:
    return InvalidArgument(
        f"{VARIABLE}: {entry!r} is no planted fault",
        reason="DRILL_UNKNOWN",
        violations=[
            (
                f"pod.env.{VARIABLE}",
                f"FAULT=NUMBER with FAULT one of {', '.join(Fault)} and a number above 0, then any of "
                f"{', '.join(f'@{name}=…' for name in Condition)}; several separated by commas",
            )
        ],
    )
