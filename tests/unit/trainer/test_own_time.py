"""What a rank reports of its own work, and of the order of its samples."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from longhaul_trainer.data.neighbours import share_of_followers
from longhaul_trainer.loop.own_time import ForwardClock
from torch import nn


class Slow(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return x


def test_forward_passes_are_added_up_and_taken_once() -> None:
    model = Slow()
    clock = ForwardClock(model, torch.device("cpu"))
    for _ in range(3):
        model(torch.zeros(1))
    assert clock.take() >= 0.06
    assert clock.take() == 0.0


def test_sequences_that_follow_each_other_are_counted_within_their_source() -> None:
    planted = np.arange(10, dtype=np.int64)
    one = np.zeros(10, dtype=np.int64)
    assert share_of_followers(one, planted) == 1.0
    assert share_of_followers(one, planted[::-1]) == 0.0
    assert share_of_followers(np.array([0, 1, 1]), np.array([4, 5, 6])) == pytest.approx(0.5)
