"""Share of the hardware's peak that training reaches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from longhaul_core.recipe import TrainerConfig

from longhaul_trainer.model import DecoderShape
from longhaul_trainer.parallel.group import RankGroup

DENSE_BF16_PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
}
"""Datasheet peaks, dense bfloat16; the denominator of MFU."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Model FLOPs a step against the peak of all ranks' devices; None where the device's peak is unknown."""

    flops_per_step: float
    peak_flops: float | None

    def utilisation(self, seconds: float) -> float | None:
        """Model FLOPS utilisation of a step that took so long."""
        return None if self.peak_flops is None else self.flops_per_step / seconds / self.peak_flops


def make_throughput(shape: DecoderShape, config: TrainerConfig, group: RankGroup) -> Throughput:
    """Counts 6·N_mm + 12·L·d·S FLOPs a token."""
    flops = shape.flops_per_token(config.data.sequence_length) * config.tokens_per_step
    peak = device_peak(group.device)
    return Throughput(flops, None if peak is None else peak * group.size)


def device_peak(device: torch.device) -> float | None:
    """Datasheet peak of one device."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for model, peak in DENSE_BF16_PEAK_FLOPS.items() if model in name), None)
