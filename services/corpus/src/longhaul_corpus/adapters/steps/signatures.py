"""Keys that documents of one shard are compared by: text and URL hashes, MinHash bands."""

import json
from typing import Any

import numpy as np
import xxhash
from longhaul_core.engine import report

from longhaul_corpus.adapters.documents import batches, open_shard
from longhaul_corpus.adapters.steps.repeats import score_names
from longhaul_corpus.adapters.workspace import Workspace
from longhaul_corpus.domain.minhash import MinHashParameters, Signature, SignatureHasher
from longhaul_corpus.domain.words import simplified_bytes

_HALF = (1 << 64) - 1


class _Columns:
    """Grows one row a document, then is written."""

    def __init__(self, hasher: SignatureHasher, documents: int) -> None:
        parameters = hasher.parameters
        self._hasher = hasher
        self.text = np.zeros((2, documents), dtype=np.uint64)
        self.url = np.zeros(documents, dtype=np.uint64)
        self.length = np.zeros(documents, dtype=np.int64)
        self.source = np.zeros(documents, dtype=np.uint16)
        self.banded = np.zeros(documents, dtype=np.bool_)
        self.bands = np.zeros((parameters.bands, documents), dtype=np.uint64)
        self.sketch = np.zeros((documents, hasher.sketch_bytes), dtype=np.uint8)
        self.names: dict[str, int] = {}

    def set(self, row: int, text: str, url: str | None, source: str) -> None:
        encoded = text.encode("utf-8", "surrogatepass")
        digest = xxhash.xxh3_128_intdigest(encoded)
        self.text[:, row] = digest >> 64, digest & _HALF
        page = _page(url or "")
        self.url[row] = xxhash.xxh64_intdigest(page.encode()) if page else 0
        self.length[row] = len(encoded)
        self.source[row] = self.names.setdefault(source, len(self.names))
        self._set_signature(row, self._hasher.signature(simplified_bytes(text)))

    def _set_signature(self, row: int, signature: Signature | None) -> None:
        if signature is not None:
            self.banded[row] = True
            self.bands[:, row] = signature.bands
            self.sketch[row] = signature.sketch


def sign_shard(workspace: Workspace, item: dict[str, Any]) -> dict[str, Any]:
    """Write the comparison keys of a shard's documents; returns how many there are and their sources.

    The documents of a shard that was set aside are only counted.
    """
    number, key = int(item["shard"]), str(item["key"])
    rules = workspace.spec.deduplication
    file = open_shard(workspace.store, key)
    documents = file.metadata.num_rows
    if item.get("lost"):
        return {"shard": number, "key": key, "documents": documents, "lost": item["lost"]}
    columns = _Columns(SignatureHasher(MinHashParameters(rules.ngram, rules.bands, rules.rows, rules.seed)), documents)
    row = 0
    wanted = score_names(workspace)
    scores = np.full((len(wanted), documents), np.nan, dtype=np.float32)
    for batch in batches(file, ("text", "url", "source", *(["scores"] if wanted else []))):
        for place, noted in enumerate(batch.get("scores", ())):
            found = json.loads(noted) if noted else {}
            scores[:, row + place] = [found.get(name, np.nan) for name in wanted]
        for text, url, source in zip(batch["text"], batch["url"], batch["source"], strict=True):
            columns.set(row, text or "", url, source)
            row += 1
        report({"done": row, "total": documents})
    _write(workspace, number, columns)
    for name, values in zip(wanted, scores, strict=True):
        workspace.put_column(f"signatures/{number:05d}/score-{name}", values)
    return {
        "shard": number,
        "key": key,
        "documents": documents,
        "text_bytes": int(columns.length.sum()),
        "sources": list(columns.names),
    }


def _write(workspace: Workspace, number: int, columns: _Columns) -> None:
    folder = f"signatures/{number:05d}"
    for name in ("text", "url", "length", "source", "banded", "bands", "sketch"):
        workspace.put_column(f"{folder}/{name}", getattr(columns, name))


def _page(url: str) -> str:
    """URL without what does not change the page: the fragment, a closing slash; "" where it is no address.

    Records without one have their place instead, as `notes.jsonl#1024` or a path: places of a file, or equal paths of
    two sources, are no copies of one page.
    """
    return url.partition("#")[0].rstrip("/") if "://" in url else ""
