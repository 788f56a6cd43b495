"""Opens a committed token set: its streams by split, its mixture, its vocabulary."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from longhaul_core.digests import hash_file
from longhaul_core.errors import DataLoss, InvalidArgument
from longhaul_core.manifests import Manifest, Part, read_manifest
from longhaul_core.objects import ObjectStore
from pydantic import BaseModel, ConfigDict, ValidationError

from longhaul_trainer.data.bounded_cache import BoundedCache
from longhaul_trainer.data.streaming import BoundedFile, StreamedFile
from longhaul_trainer.data.tokens import TokenFile, TokenStream


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Shard(_Lenient):
    """One pair of token file and document index."""

    key: str
    index_key: str


class Split(_Lenient):
    """The shards of one source and split."""

    shards: tuple[Shard, ...] = ()


class Source(_Lenient):
    """One source of the token set."""

    train: Split = Split()
    valid: Split = Split()


class MixtureEntry(_Lenient):
    """Weight of a source in the token set's own mixture."""

    source: str
    weight: float


class Tokenizer(_Lenient):
    """The tokenizer that made the tokens."""

    name: str
    key: str
    digest: str


class EvaluationTask(_Lenient):
    """Items of one evaluation task, as JSON lines."""

    key: str
    kind: str


class TokenSetExtra(_Lenient):
    """What the trainer reads of a token set's manifest."""

    token_dtype: str
    vocabulary_size: int
    eos_id: int
    tokenizer: Tokenizer
    sources: dict[str, Source]
    mixture: tuple[MixtureEntry, ...] = ()
    eval_tasks: dict[str, EvaluationTask] = {}


@dataclass(frozen=True, slots=True)
class TokenSet:
    """A committed token set."""

    manifest: Manifest
    extra: TokenSetExtra
    files: TokenFiles

    def streams(self, split: str, sources: Sequence[str]) -> list[TokenStream]:
        """Token streams of the named sources; ``split`` is train or valid."""
        found = []
        for name in sources:
            shards = getattr(self.extra.sources[name], split).shards
            paths = [(self.files.open(shard.key), self.files.path(shard.index_key)) for shard in shards]
            found.append(TokenStream(name, paths, self.extra.token_dtype))
        return found

    def mixture(self, wanted: Mapping[str, float]) -> dict[str, float]:
        """Weight of each source: as wanted, else the token set's own, else by size of the sources given.

        Raises:
            InvalidArgument: naming the sources that the token set lacks.
        """
        own = {entry.source: entry.weight for entry in self.extra.mixture}
        chosen = dict(wanted) or own or dict.fromkeys(self.extra.sources, 1.0)
        unknown = sorted(chosen.keys() - self.extra.sources.keys())
        if unknown:
            raise InvalidArgument(
                f"The mixture names sources that the token set lacks: {', '.join(unknown)}",
                violations=[("data.mixture", f"the token set has {', '.join(sorted(self.extra.sources))}")],
            )
        return {source: weight for source, weight in sorted(chosen.items()) if weight > 0}


class TokenFiles:
    """Parts of a token set as local files: in place where the store is a folder, else copied once and verified."""

    def __init__(self, store: ObjectStore, parts: Sequence[Part], cache: Path, cache_bytes: int = 0) -> None:
        self._store = store
        self._parts = {part.key: part for part in parts}
        self._cache = cache
        self._blocks = BoundedCache(cache / "blocks", cache_bytes) if cache_bytes else None

    def path(self, key: str) -> Path:
        """Local path of a part.

        Raises:
            DataLoss: it is not in the manifest, or not of its size or digest.
        """
        part = self._parts.get(key)
        if part is None:
            raise _damaged(key, "is not in the token set's manifest")
        path = self._store.local_path(key)
        if path is None:
            return self._copy(part)
        if path.stat().st_size != part.size:
            raise _damaged(key, f"has {path.stat().st_size} bytes, not {part.size}")
        return path

    def open(self, key: str) -> TokenFile:
        """A part that is read piece by piece: its path where it is on this machine, else as a stream of blocks.

        Raises:
            DataLoss: it is not in the manifest, or not of its size.
        """
        part = self._parts.get(key)
        if part is None or self._store.local_path(key) is not None:
            return self.path(key)
        if self._blocks is not None:
            return BoundedFile(self._store, part, self._blocks)
        return StreamedFile(self._store, part, self._cache)

    def _copy(self, part: Part) -> Path:
        path = self._cache / part.digest
        if path.exists() and path.stat().st_size == part.size:
            return path
        self._cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with self._store.open_read(part.key) as source, partial.open("wb") as target:
            shutil.copyfileobj(source, target, 8 << 20)
        if hash_file(partial) != part.digest:
            partial.unlink()
            raise _damaged(part.key, "does not match its digest")
        partial.replace(path)
        return path


def open_token_set(store: ObjectStore, manifest_key: str, cache: Path, cache_bytes: int = 0) -> TokenSet:
    """Reads and checks the manifest. Of streamed shards `cache_bytes` are kept at most; 0: all.

    Raises:
        NotFound: nothing was committed under the key.
        DataLoss: the manifest is damaged or does not describe a token set.
    """
    manifest = read_manifest(store, manifest_key)
    try:
        extra = TokenSetExtra.model_validate(manifest.extra)
    except ValidationError as error:
        raise _damaged(manifest_key, f"does not describe a token set: {error}") from error
    return TokenSet(manifest, extra, TokenFiles(store, manifest.parts, cache, cache_bytes))


def _damaged(key: str, problem: str) -> DataLoss:
    return DataLoss(
        f"Token set part {key} {problem}",
        reason="TOKEN_SET_DAMAGED",
        metadata={"key": key},
        action="verify the token set and build it again if it is damaged",
    )
