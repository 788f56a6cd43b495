"""A small fastText model, written in the library's file format: each word speaks for one label."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

MAGIC, VERSION = 793712314, 12
SOFTMAX, SUPERVISED = 3, 3
STRENGTH = 20.0


def write_model(path: Path, words: Mapping[str, Sequence[str]]) -> Path:
    """Write a model whose labels are the keys; a text has the label that most of its words are listed under."""
    labels = list(words)
    entries = [(word, number) for number, label in enumerate(labels) for word in words[label]]
    size = len(labels)
    out = struct.pack("<ii", MAGIC, VERSION)
    out += struct.pack("<12id", size, 5, 5, 1, 5, 1, SOFTMAX, SUPERVISED, 0, 0, 0, 100, 1e-4)
    out += struct.pack("<iiiqq", len(entries) + size, len(entries), size, len(entries), -1)
    for word, _ in entries:
        out += word.encode() + b"\0" + struct.pack("<qb", 1, 0)
    for label in labels:
        out += f"__label__{label}".encode() + b"\0" + struct.pack("<qb", 1, 1)
    out += struct.pack("<?qq", False, len(entries), size)
    for _, number in entries:
        out += struct.pack(f"<{size}f", *(STRENGTH * (column == number) for column in range(size)))
    out += struct.pack("<?qq", False, size, size)
    for row in range(size):
        out += struct.pack(f"<{size}f", *(float(column == row) for column in range(size)))
    path.write_bytes(out)
    return path
