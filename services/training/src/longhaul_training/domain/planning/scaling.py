"""Compute-optimal scaling, after the refit of Chinchilla's third approach (arXiv 2404.10102).

loss(N, D) = 1.8172 + 482.01 / N^0.3478 + 2085.43 / D^0.3658, in nats a token on the corpus of that paper. The constants
of the first paper contradict its own 20 tokens a parameter; these give 18 to 24 over the practical range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

ENTROPY_NATS = 1.8172
PARAMETER_COEFFICIENT = 482.01
PARAMETER_EXPONENT = 0.3478
TOKEN_COEFFICIENT = 2085.43
TOKEN_EXPONENT = 0.3658


@dataclass(frozen=True, slots=True)
class ComputeOptimum:
    """The best split of a budget of 6 * N * D operations, and the loss it would reach."""

    parameters: float
    tokens: float
    loss_nats: float


def predicted_loss(parameters: float, tokens: float) -> float:
    """Loss in nats a token that the scaling law predicts; both arguments must be positive."""
    from_size = PARAMETER_COEFFICIENT * math.pow(parameters, -PARAMETER_EXPONENT)
    from_data = TOKEN_COEFFICIENT * math.pow(tokens, -TOKEN_EXPONENT)
    return ENTROPY_NATS + from_size + from_data


def compute_optimum(flops: float) -> ComputeOptimum:
    """Minimises the predicted loss subject to 6 * N * D = `flops`, in closed form."""
    product = flops / 6.0
    ratio = (PARAMETER_EXPONENT * PARAMETER_COEFFICIENT) / (TOKEN_EXPONENT * TOKEN_COEFFICIENT)
    total = PARAMETER_EXPONENT + TOKEN_EXPONENT
    parameters = ratio ** (1.0 / total) * product ** (TOKEN_EXPONENT / total)
    tokens = product / parameters
    return ComputeOptimum(parameters, tokens, predicted_loss(parameters, tokens))


def optimal_tokens_per_parameter(parameters: float) -> float:
    """Tokens a parameter at which a model of this size is compute-optimal.

    From the first-order condition: alpha * A / N^alpha = beta * B / D^beta.
    """
    ratio = (TOKEN_EXPONENT * TOKEN_COEFFICIENT) / (PARAMETER_EXPONENT * PARAMETER_COEFFICIENT)
    tokens = math.pow(ratio * math.pow(parameters, PARAMETER_EXPONENT), 1.0 / TOKEN_EXPONENT)
    return tokens / parameters
