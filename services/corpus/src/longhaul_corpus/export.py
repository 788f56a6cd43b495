"""Writes a token set for Megatron: `python -m longhaul_corpus.export --store URL --manifest KEY --out FOLDER`.

Each source and split becomes `<source>-<split>.bin` and `.idx`, documents in the order of the token set, each with its
end-of-text token.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from longhaul_core.errors import DataLoss, LonghaulError
from longhaul_core.manifests import Manifest, hash_bytes, read_manifest
from longhaul_core.objects import ObjectStore, open_store

from longhaul_corpus.domain.megatron import index_bytes, megatron_type


def main(arguments: Sequence[str] | None = None) -> int:
    """Export one token set; errors are one line."""
    parser = argparse.ArgumentParser(prog="python -m longhaul_corpus.export", description=__doc__)
    parser.add_argument("--store", required=True, help="URL of the object store, such as file:///data/objects")
    parser.add_argument("--manifest", required=True, help="key of the token set's manifest")
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args(arguments)
    try:
        for path, documents, tokens in export(open_store(options.store), options.manifest, options.out):
            sys.stdout.write(f"{path}: {documents} documents, {tokens} tokens\n")
    except LonghaulError as error:
        sys.stderr.write(f"{error.message} {error.action}\n")
        return 1
    return 0


def export(store: ObjectStore, manifest_key: str, folder: Path) -> list[tuple[Path, int, int]]:
    """Write all sources and splits; returns the files with their documents and tokens.

    Raises:
        NotFound: there is no such manifest.
        DataLoss: a shard is not what the manifest says.
    """
    manifest = read_manifest(store, manifest_key)
    extra: Any = manifest.extra
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for source, sides in sorted(extra["sources"].items()):
        for split, side in sorted(sides.items()):
            if side["shards"]:
                path = folder / f"{source}-{split}.bin"
                written.append((path, *_export_side(store, manifest, side["shards"], extra["token_dtype"], path)))
    return written


def _export_side(
    store: ObjectStore, manifest: Manifest, shards: Sequence[dict[str, Any]], dtype: str, path: Path
) -> tuple[int, int]:
    target = megatron_type(dtype)
    lengths = []
    with path.open("wb") as file:
        for shard in shards:
            tokens = np.frombuffer(_verified(store, manifest, shard["key"]), dtype=np.dtype(dtype).newbyteorder("<"))
            ends = np.frombuffer(_verified(store, manifest, shard["index_key"]), dtype="<u8").astype(np.int64)
            lengths.append(np.diff(ends, prepend=0))
            file.write(tokens.astype(np.dtype(target).newbyteorder("<"), copy=False).tobytes())
    every = np.concatenate(lengths)
    path.with_suffix(".idx").write_bytes(index_bytes(every, target))
    return len(every), int(every.sum())


def _verified(store: ObjectStore, manifest: Manifest, key: str) -> bytes:
    part = next(part for part in manifest.parts if part.key == key)
    content = store.get(key)
    if hash_bytes(content) != part.digest:
        raise DataLoss(f"{key} is not what the manifest says", reason="PART_DAMAGED", action="Build the set again.")
    return content


if __name__ == "__main__":
    sys.exit(main())
