"""The place in the object store where the steps of one build keep what they hand to one another.

Each step writes whole objects, deterministic in its inputs: a step that is run twice writes the same bytes twice.
"""

import functools
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from longhaul_core.errors import Unavailable
from longhaul_core.objects import ObjectStore, open_store
from pydantic import TypeAdapter

from longhaul_corpus.domain.sealing import BlockChanged, sums_of, unseal, unsealed_size
from longhaul_corpus.domain.spec import BuildSpec

REPORT, DUPLICATES_FILE = "report.json", "duplicates.parquet"
"""Objects of the token set that the service shows, below its folder."""
Array = npt.NDArray[Any]
_READ_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Input:
    """A committed resource that the build reads: its name, the key of its manifest, the manifest's digest."""

    name: str
    manifest_key: str
    digest: str


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What every step of a build knows.

    Attributes:
        store_url: the object store.
        prefix: folder of the token set.
        tokenizer_prefix: folder of the tokenizer that the build trains; unused with a named one.
        name, uid, created: of the token set, for its manifest.
        tokenizer_name: of the tokenizer made or used.
        tokenizer: manifest of the tokenizer named in the spec.
    """

    store_url: str
    prefix: str
    tokenizer_prefix: str
    name: str
    uid: str
    created: datetime
    tokenizer_name: str
    spec: BuildSpec
    datasets: tuple[Input, ...] = ()
    tokenizer: Input | None = None


_CONTEXT = TypeAdapter(BuildContext)


def dump_context(context: BuildContext) -> dict[str, Any]:
    """Return the context as JSON values."""
    document: dict[str, Any] = _CONTEXT.dump_python(context, mode="json")
    return document


def load_context(document: dict[str, Any]) -> BuildContext:
    """Read a context that `dump_context` wrote."""
    return _CONTEXT.validate_python(document)


@functools.lru_cache(maxsize=8)
def shared_store(url: str) -> ObjectStore:
    """Return the process's client of the store at `url`."""
    return open_store(url)


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a dataset, numbered over all datasets; `offset` is the ordinal of its first document."""

    number: int
    key: str
    offset: int
    documents: int


class Workspace:
    """Reads and writes the intermediate objects of one build."""

    def __init__(self, context: BuildContext) -> None:
        self.context = context
        self.spec = context.spec
        self.store = shared_store(context.store_url)

    def key(self, *parts: str) -> str:
        """Key of an intermediate object."""
        return "/".join((self.context.prefix, "work", *parts))

    def put_column(self, name: str, values: Array) -> None:
        """Write one value a document, little-endian, with checksums."""
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        with self.store.open_write(self.key(name)) as sink:
            sink.write(data)
            sink.write(sums_of(data))

    def column(self, name: str, dtype: type[np.generic], start: int = 0, count: int | None = None) -> Array:
        """Read a column, or `count` values of it.

        Raises:
            Unavailable: the store gave other bytes than it was given, again and again (WORK_CORRUPT).
        """
        key, width = self.key(name), np.dtype(dtype).itemsize
        size = self.store.stat(key).size
        length = unsealed_size(size) if count is None else count * width
        return np.frombuffer(self._checked(key, size, start * width, length), dtype=dtype)

    def _checked(self, key: str, size: int, start: int, length: int) -> memoryview:
        for _ in range(_READ_ATTEMPTS):
            with suppress(BlockChanged):
                return unseal(functools.partial(self.store.get_range, key), size, start, length)
        raise Unavailable(
            f"{key} is not as it was written, or does not come so from the object store",
            reason="WORK_CORRUPT",
            metadata={"key": key},
            action="Look at the object store and at what lies between it and this machine.",
        )

    def put_arrays(self, name: str, arrays: dict[str, Array]) -> None:
        """Write named arrays as one object."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        self.store.put(self.key(name), buffer.getbuffer())

    def arrays(self, name: str) -> dict[str, Array]:
        """Read what `put_arrays` wrote."""
        with np.load(io.BytesIO(self.store.get(self.key(name))), allow_pickle=False) as archive:
            return {field: archive[field] for field in archive.files}

    def put_json(self, name: str, value: Any) -> None:
        """Write a JSON document."""
        self.store.put(self.key(name), json.dumps(value, sort_keys=True, ensure_ascii=False).encode())

    def json(self, name: str) -> Any:
        """Read a JSON document."""
        return json.loads(self.store.get(self.key(name)))

    def put_shards(self, shards: Sequence[Shard]) -> None:
        """Write the list of dataset shards."""
        self.put_json("shards.json", [[s.number, s.key, s.offset, s.documents] for s in shards])

    def shards(self) -> list[Shard]:
        """All dataset shards in order."""
        return [Shard(*row) for row in self.json("shards.json")]

    def sources(self) -> list[str]:
        """Names of the sources, by number."""
        names: list[str] = self.json("sources.json")
        return names
