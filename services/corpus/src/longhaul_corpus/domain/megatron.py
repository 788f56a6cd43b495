"""Megatron's indexed datasets: `.bin` holds the tokens as they are, `.idx` the lengths and places of the documents.

Layout of the index as Megatron-LM reads it: magic, version, type code, counts, then int32 lengths, int64 byte offsets
and int64 document bounds, all little-endian.
"""

import struct
from typing import Final

import numpy as np
import numpy.typing as npt

MAGIC: Final = b"MMIDIDX\x00\x00"
VERSION: Final = 1
TYPE_CODES: Final = {"uint16": 8, "int32": 4}


def megatron_type(dtype: str) -> str:
    """The type that Megatron stores such tokens as: it knows no uint32, whose ids all fit int32."""
    return "uint16" if dtype == "uint16" else "int32"


def index_bytes(lengths: npt.NDArray[np.int64], token_dtype: str) -> bytes:
    """The `.idx` file of documents of these lengths, each one sequence.

    Args:
        lengths: tokens of each document: int64[documents].
        token_dtype: `uint16` or `int32`.
    """
    offsets = (np.cumsum(lengths) - lengths) * np.dtype(token_dtype).itemsize
    head = MAGIC + struct.pack("<QBQQ", VERSION, TYPE_CODES[token_dtype], len(lengths), len(lengths) + 1)
    documents = np.arange(len(lengths) + 1, dtype="<i8")
    return head + lengths.astype("<i4").tobytes() + offsets.astype("<i8").tobytes() + documents.tobytes()
