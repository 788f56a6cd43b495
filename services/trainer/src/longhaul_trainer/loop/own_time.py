"""Time of a step that a rank spends on its own work, so that a slow rank can be told from those that wait for it.

Measured is the forward pass: hooks begin after the sharding has gathered the parameters, which is where a rank waits
for its peers, and end before the backward pass reduces the gradients. On a GPU it is the time between events.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn


class ForwardClock:
    """Adds up the forward passes of a model."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._spans: list[tuple[Any, Any]] = []
        self._begun: Any = None
        model.register_forward_pre_hook(self._begin)
        model.register_forward_hook(self._end)

    def take(self) -> float:
        """Seconds since the last call; on a GPU the step must have been synchronised."""
        spans, self._spans = self._spans, []
        if self._cuda:
            return float(sum(begun.elapsed_time(ended) for begun, ended in spans if ended.query())) / 1e3
        return float(sum(ended - begun for begun, ended in spans))

    def _begin(self, *_: Any) -> None:
        self._begun = self._now()

    def _end(self, *_: Any) -> None:
        self._spans.append((self._begun, self._now()))

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
