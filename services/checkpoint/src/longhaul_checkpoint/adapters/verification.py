"""Reading parts back from the object store and comparing them with what their writer announced.

Hashing is BLAKE3 in native code, several parts at a time on threads of this service, so that a commit of many ranks'
parts is bounded by the store's bandwidth and the event loop stays free.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from longhaul_core.errors import DataLoss
from longhaul_core.manifests import Part as ManifestPart
from longhaul_core.manifests import verify_part
from longhaul_core.objects.store import ObjectStore

from longhaul_checkpoint.domain.parts import Damage, Part, PartFormat
from longhaul_checkpoint.domain.safetensors_header import LENGTH_BYTES, HeaderError, check_header, header_length

MAXIMUM_JSON_BYTES = 256 * 1024 * 1024


class PartVerifier:
    """Verifies parts against the store on a bounded number of threads."""

    def __init__(self, store: ObjectStore, threads: int) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="verify")

    async def verify(self, parts: Sequence[Part]) -> list[Damage]:
        """Return the damage of every part that is missing or differs, in the order of `parts`."""
        loop = asyncio.get_running_loop()
        jobs = [loop.run_in_executor(self._threads, examine, self._store, part) for part in parts]
        try:
            found = await asyncio.gather(*jobs)
        finally:
            for job in jobs:
                job.cancel()
        return [damage for damage in found if damage is not None]

    def close(self) -> None:
        """Let running examinations end and take no more."""
        self._threads.shutdown(cancel_futures=True)


def examine(store: ObjectStore, part: Part) -> Damage | None:
    """Return what is wrong with one part, or None."""
    try:
        verify_part(store, ManifestPart(key=part.key, size=part.size, digest=part.digest))
    except DataLoss as error:
        return Damage(part.path, error.reason, error.message)
    if part.format is PartFormat.SAFETENSORS:
        return _examine_header(store, part)
    return _examine_json(store, part)


def _examine_header(store: ObjectStore, part: Part) -> Damage | None:
    try:
        length = header_length(store.get_range(part.key, 0, LENGTH_BYTES), part.size)
        check_header(store.get_range(part.key, LENGTH_BYTES, length), part.size)
    except HeaderError as error:
        return Damage(part.path, "PART_HEADER_INVALID", str(error))
    return None


def _examine_json(store: ObjectStore, part: Part) -> Damage | None:
    if part.size > MAXIMUM_JSON_BYTES:
        return Damage(part.path, "PART_TOO_LARGE", f"JSON of {part.size} bytes; at most {MAXIMUM_JSON_BYTES}")
    try:
        json.loads(store.get(part.key))
    except (ValueError, RecursionError) as error:
        return Damage(part.path, "PART_NOT_JSON", str(error))
    return None
