"""What is told of a step beside loss and speed."""

from __future__ import annotations

import math
import resource
from contextlib import suppress
from pathlib import Path

import torch

from longhaul_trainer.loop.step import Measured
from longhaul_trainer.model import DecoderShape

_ROUND_OFF = 1e-3


def expert_balance(measured: Measured) -> dict[str, float]:
    """Load of the busiest expert over the mean, by layer and at worst; nothing for a dense model."""
    loads = {}
    for layer, counts in measured.expert_counts.items():
        mean = sum(counts) / len(counts)
        loads[f"moe_imbalance/layer_{layer}"] = max(counts) / mean if mean else 0.0
    return loads | ({"moe_imbalance": max(loads.values())} if loads else {})


def device_memory(device: torch.device) -> dict[str, float]:
    """Most memory that was allocated on the GPU so far; on a CPU what the process holds now."""
    if device.type == "cuda":
        return {"memory_bytes": float(torch.cuda.max_memory_allocated(device))}
    with suppress(OSError, IndexError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return {"memory_bytes": float(pages * resource.getpagesize())}
    return {}


def model_figures(shape: DecoderShape) -> dict[str, str | float]:
    """Sizes of a model; of a mixture of experts also how sparse and how fine-grained it is."""
    figures: dict[str, str | float] = {
        "parameters": shape.parameters,
        "active_matrix_parameters": shape.matrix_parameters,
    }
    if shape.moe.experts:
        figures |= {"sparsity": shape.sparsity, "granularity": shape.granularity}
    return figures


def same_result(first: Measured, second: Measured, *, exact: bool) -> bool:
    """Whether a step gave the same numbers twice: bit for bit with deterministic kernels, else within round-off."""
    pairs = ((first.loss, second.loss), (first.gradient_norm, second.gradient_norm))
    if exact:
        return all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in pairs)
    return all(
        math.isclose(a, b, rel_tol=_ROUND_OFF) or (not math.isfinite(a) and not math.isfinite(b)) for a, b in pairs
    )
