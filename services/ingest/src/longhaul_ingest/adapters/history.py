"""Sources that grow: which files earlier datasets were made of, and which are new since."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from longhaul_core.errors import FailedPrecondition
from longhaul_core.manifests import Part, put_part, read_manifest
from longhaul_core.objects import ObjectStore

from longhaul_ingest.adapters.inventory import list_files, without
from longhaul_ingest.domain.ingestion import IngestionSpec
from longhaul_ingest.domain.planning import SourceFile

FILES: Final = "files.jsonl"
CONTINUED: Final = "(continued)"
"""Key of the inventory that holds the manifests of continued datasets; no source has such a name."""
Seen = Mapping[str, Collection[tuple[str, int, str]]]


def put_files(store: ObjectStore, prefix: str, files: Mapping[str, Sequence[SourceFile]]) -> Part:
    """Write which files a dataset was made of: source, path, size and version, one file a line."""
    lines = [
        json.dumps([source, file.path, file.size, file.version]) for source, listed in files.items() for file in listed
    ]
    return put_part(store, f"{prefix}/{FILES}", "".join(f"{line}\n" for line in lines).encode())


def seen_files(store: ObjectStore, manifest_keys: Sequence[str]) -> Seen:
    """Files by source of the datasets with these manifests, and of those that they continue in turn."""
    seen: dict[str, set[tuple[str, int, str]]] = {}
    waiting, done = list(manifest_keys), set[str]()
    while waiting:
        key = waiting.pop()
        if key in done:
            continue
        done.add(key)
        manifest = read_manifest(store, key)
        config: Mapping[str, Any] = manifest.config
        files = next(part.key for part in manifest.parts if part.key.endswith(f"/{FILES}"))
        for line in store.get(files).decode().splitlines():
            source, path, size, version = json.loads(line)
            seen.setdefault(source, set()).add((path, size, version))
        waiting += config.get("inventory", {}).get(CONTINUED, [])
    return seen


def new_files(spec: IngestionSpec, seen: Seen) -> dict[str, list[SourceFile]]:
    """The files of each source that are not among those seen; one that has changed since is new, and read whole.

    Raises:
        FailedPrecondition: an ingestion that continues others has no new file (SOURCE_UNCHANGED).
    """
    found = {source.name: without(list_files(source), seen.get(source.name, ())) for source in spec.sources}
    if spec.continues and not any(found.values()):
        raise FailedPrecondition(
            f"No source has a file that is new since {', '.join(spec.continues)}.",
            reason="SOURCE_UNCHANGED",
            action="Run again when files were added.",
        )
    return found
