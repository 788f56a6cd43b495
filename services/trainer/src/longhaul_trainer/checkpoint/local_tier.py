"""The near tier: this rank's newest parts on the machine's own disk, so that a restart in place need not fetch them.

The store stays the truth: a file counts only if it has the digest that the committed manifest names. What lies here is
never the only copy that was committed, so that files are written without a sync and dropped when newer ones are there.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from longhaul_core.logging import get_logger
from longhaul_core.manifests import Part

from longhaul_trainer.checkpoint.part_source import FilePart

KEPT_CHECKPOINTS = 2
_SPARE_FACTOR = 2

_log = get_logger(__name__)


class LocalTier:
    """Parts by digest, in a folder of one checkpoint each."""

    name = "disk"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, checkpoint: str, part: Part, data: memoryview) -> None:
        """Keeps a part that was just uploaded; a full disk is no reason to fail."""
        try:
            place = self._folder / checkpoint
            place.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(place).free < _SPARE_FACTOR * part.size:
                return
            partial = place / f"{part.digest}.part"
            partial.write_bytes(data)
            partial.rename(place / part.digest)
            self._drop_old()
        except OSError as error:
            _log.warning("part not kept on this machine", key=part.key, error=str(error))

    def carry(self, checkpoint: str, part: Part) -> None:
        """Keeps a part that this checkpoint shares with an earlier one, as a second name of the same file."""
        with suppress(OSError):
            place = self._folder / checkpoint
            place.mkdir(parents=True, exist_ok=True)
            for path in self._folder.glob(f"*/{part.digest}"):
                if not (place / part.digest).exists():
                    (place / part.digest).hardlink_to(path)
                break

    def find(self, part: Part) -> FilePart | None:
        """The part's file, not verified, or None where it is not here."""
        return next((FilePart(path) for path in self._folder.glob(f"*/{part.digest}")), None)

    def reject(self, part: Part) -> None:
        """Drops a damaged copy under all its names."""
        for path in self._folder.glob(f"*/{part.digest}"):
            path.unlink(missing_ok=True)

    def _drop_old(self) -> None:
        folders = sorted(self._folder.iterdir(), key=lambda path: path.name)
        for folder in folders[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(folder, ignore_errors=True)


def open_near_tier(object_store_url: str, folder: Path, rank: int) -> LocalTier | None:
    """A tier where the store is not a folder of this machine anyway."""
    return None if object_store_url.startswith("file:") else LocalTier(folder / "checkpoints" / f"rank-{rank:05d}")
