"""Seeded order of documents from their content hash: the same for any number of shards, workers or restarts."""

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]


def order_keys(content: Keys, seed: int, purpose: int) -> Keys:
    """Well mixed key of each document (splitmix64, Steele et al. 2014): sort by it for a random order.

    Args:
        content: hash of each document: uint64[documents].
        seed: the recipe's seed.
        purpose: small constant that separates the uses of one seed (split, shuffle, tasks).
    """
    salt = (seed * 0x9E3779B97F4A7C15 + purpose * 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF
    with np.errstate(over="ignore"):
        value = (content ^ np.uint64(salt)) + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


SPLIT, SHUFFLE, TASKS, SAMPLE, REPEAT, COPY = 1, 2, 3, 4, 5, 6
"""Purposes of `order_keys`."""
