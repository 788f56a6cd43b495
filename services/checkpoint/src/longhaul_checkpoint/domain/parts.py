"""The parts of a checkpoint and the rules for what may be one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from longhaul_core.errors import InvalidArgument

MAXIMUM_PARTS = 100_000
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


class PartFormat(StrEnum):
    """What a part's bytes are. There is no pickle on the list, and there will be none."""

    SAFETENSORS = "safetensors"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Part:
    """One immutable object of a checkpoint.

    `path` is the part's name within the checkpoint; `key` the object's key, which lies under the checkpoint's own
    prefix or, for content that did not change, under that of the checkpoint of the run that wrote it first.
    """

    path: str
    key: str
    size: int
    digest: str

    @property
    def format(self) -> PartFormat:
        """The part's format, by its suffix."""
        return PartFormat(self.path.rpartition(".")[2])


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong with one part."""

    part: str
    reason: str
    detail: str


def check_parts(parts: Sequence[Part], *, shared_prefix: str) -> None:
    """Refuse a list of parts that cannot be a checkpoint.

    Args:
        parts: the parts as announced by the writer.
        shared_prefix: the prefix under which every key must lie: that of the run.

    Raises:
        InvalidArgument: with one violation a fault.
    """
    violations: list[tuple[str, str]] = []
    if not parts:
        violations.append(("parts", "a checkpoint has at least one part"))
    if len(parts) > MAXIMUM_PARTS:
        violations.append(("parts", f"{len(parts)} parts are more than {MAXIMUM_PARTS}"))
    seen: set[str] = set()
    for index, part in enumerate(parts[:MAXIMUM_PARTS]):
        violations += [(f"parts[{index}].{field}", text) for field, text in _faults(part, shared_prefix)]
        if part.path in seen:
            violations.append((f"parts[{index}].path", f"{part.path!r} is named twice"))
        seen.add(part.path)
    if violations:
        raise InvalidArgument(
            f"the parts cannot be committed: {violations[0][0]}: {violations[0][1]}",
            reason="INVALID_PARTS",
            violations=violations[:100],
        )


def _faults(part: Part, shared_prefix: str) -> list[tuple[str, str]]:
    faults = []
    if not _PATH.fullmatch(part.path):
        faults.append(("path", f"{part.path!r} is no plain relative path"))
    if part.path.rpartition(".")[2] not in set(PartFormat):
        faults.append(("path", f"{part.path!r} is neither .safetensors nor .json"))
    if not part.key.startswith(shared_prefix) or ".." in part.key.split("/"):
        faults.append(("key", f"{part.key!r} is outside {shared_prefix!r}"))
    if part.size <= 0:
        faults.append(("size", f"{part.size} is not positive"))
    if not _DIGEST.fullmatch(part.digest):
        faults.append(("digest", f"{part.digest!r} is no BLAKE3 digest of 64 hexadecimal digits"))
    return faults
