"""The place in the object store where the steps of one build keep what they hand to one another.

Each step writes whole objects, deterministic in its inputs: a step that is run twice writes the same bytes twice.
"""

import functools
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from longhaul_core.objects import ObjectStore, open_store
from pydantic import TypeAdapter

from longhaul_corpus.domain.spec import BuildSpec

Array = npt.NDArray[Any]


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
        """Write one value a document, little-endian."""
        self.store.put(self.key(name), np.ascontiguousarray(values).tobytes())

    def column(self, name: str, dtype: type[np.generic], start: int = 0, count: int | None = None) -> Array:
        """Read a column, or `count` values of it."""
        size = np.dtype(dtype).itemsize
        if count is None:
            return np.frombuffer(self.store.get(self.key(name)), dtype=dtype)
        return np.frombuffer(self.store.get_range(self.key(name), start * size, count * size), dtype=dtype)

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
