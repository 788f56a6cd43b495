"""What the planner knows of accelerators: dense peaks, memory, links and a list price.

Peaks are *dense* bf16 figures of the data sheets, since they are the denominator of every MFU that the project
publishes. Prices are list prices of 2026 for a GPU-hour and only a default: a recipe states its own.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One kind of accelerator; link speeds are bytes a second a GPU in one direction."""

    name: str
    peak_flops: float
    memory_bytes: int
    node_link: float
    fabric_link: float
    price_per_hour: float
    gpus_per_node: int = 8
    # Share of the dense peak that well-shaped matrix products and the memory-bound rest of a block reach together.
    kernel_efficiency: float = 0.46


ACCELERATORS: dict[str, Accelerator] = {
    a.name: a
    for a in (
        Accelerator("h100", 989e12, 80 * GIB, 450e9, 50e9, 2.50),
        Accelerator("h200", 989e12, 141 * GIB, 450e9, 50e9, 3.00),
        Accelerator("h800", 989e12, 80 * GIB, 200e9, 50e9, 2.00),
        Accelerator("a100", 312e12, 80 * GIB, 300e9, 25e9, 1.50, kernel_efficiency=0.56),
        Accelerator("a100-40g", 312e12, 40 * GIB, 300e9, 25e9, 1.20, kernel_efficiency=0.56),
        Accelerator("b200", 2250e12, 180 * GIB, 900e9, 50e9, 5.00),
        Accelerator("l40s", 362e12, 48 * GIB, 32e9, 12e9, 1.00),
        # A pretend GPU: one process pinned to one core. Measured on the demo model, float32.
        Accelerator("cpu", 0.06e12, 4 * GIB, 2e9, 2e9, 0.0, gpus_per_node=1),
    )
}
