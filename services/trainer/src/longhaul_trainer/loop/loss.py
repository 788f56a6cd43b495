"""What is minimised: cross-entropy, and what the recipe adds to it, summed over the valid tokens."""

from __future__ import annotations

from longhaul_core.recipe import LossConfig
from torch import Tensor
from torch.nn import functional

from longhaul_trainer.data.samples import IGNORED_LABEL

PLAIN_LOSS = LossConfig()


def summed_loss(logits: Tensor, labels: Tensor, config: LossConfig = PLAIN_LOSS) -> Tensor:
    """Sum over the valid tokens, in float32 at least.

    Args:
        logits: float[B, T, V].
        labels: int64[B, T], -100 where nothing is to be learned.
        config: z-loss (PaLM, section 5: the squared log-partition function) and label smoothing.
    """
    flat, targets = logits.flatten(0, 1), labels.flatten()
    flat = flat if flat.dtype.itemsize > 4 else flat.float()
    loss = functional.cross_entropy(
        flat, targets, ignore_index=IGNORED_LABEL, reduction="sum", label_smoothing=config.label_smoothing
    )
    if config.z_loss:
        partition = flat.logsumexp(dim=-1)
        loss = loss + config.z_loss * (partition.square() * (targets != IGNORED_LABEL)).sum()
    return loss
