"""Parts that several checkpoints of a run share.

A part whose content did not change is not written again: the new manifest names the object that an earlier checkpoint
wrote. Such an object stays for as long as any live checkpoint names it, also after its writer was deleted; the last one
that borrowed it takes it along. A commit may borrow only what a live checkpoint holds in the same transaction, so that
nothing can be borrowed that a sweep already removes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from longhaul_checkpoint.domain.checkpoint import Checkpoint

_FOLDER_DEPTH = 5
"""projects/{project}/checkpoints/{run}/{checkpoint}/"""


def writer_prefix(key: str) -> str:
    """Return the prefix of the checkpoint that wrote a part."""
    return "/".join(key.split("/")[:_FOLDER_DEPTH]) + "/"


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a set of checkpoints holds: everything below their own prefixes, and the parts that they borrow (sizes)."""

    prefixes: frozenset[str]
    borrowed: Mapping[str, int]

    def holds(self, key: str) -> bool:
        """Whether one of the checkpoints wrote or borrows the part."""
        return key in self.borrowed or writer_prefix(key) in self.prefixes

    def lacking(self, keys: Iterable[str]) -> list[str]:
        """The keys that none of the checkpoints holds."""
        return sorted(key for key in keys if not self.holds(key))

    def lent_by(self, prefix: str) -> dict[str, int]:
        """The parts below a prefix that the checkpoints borrow, with their sizes."""
        return {key: size for key, size in self.borrowed.items() if key.startswith(prefix)}


def holdings(checkpoints: Iterable[Checkpoint]) -> Holdings:
    """What these checkpoints hold."""
    prefixes, borrowed = set[str](), dict[str, int]()
    for checkpoint in checkpoints:
        prefixes.add(checkpoint.identity.prefix)
        if checkpoint.commitment is not None:
            borrowed.update(checkpoint.commitment.borrowed)
    return Holdings(frozenset(prefixes), borrowed)


def freed_bytes(expired: Sequence[Checkpoint], kept: Holdings) -> int:
    """Bytes that the deletion of the expired ones frees.

    Their own parts that no kept one borrows, and, once, each part that only expired ones still borrow.
    """
    own, orphans = 0, dict[str, int]()
    written = {checkpoint.identity.prefix for checkpoint in expired}
    for checkpoint in expired:
        commitment = checkpoint.committed
        lent = sum(kept.lent_by(checkpoint.identity.prefix).values())
        own += commitment.size_bytes - sum(commitment.borrowed.values()) - lent
        for key, size in commitment.borrowed.items():
            if not kept.holds(key) and writer_prefix(key) not in written:
                orphans[key] = size
    return own + sum(orphans.values())
