"""From the results of all shards to a committed dataset, or to the reason why there is none."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from longhaul_core.db import ResourceRow
from longhaul_core.errors import NotFound
from longhaul_core.manifests import (
    CommitAuthority,
    Manifest,
    Part,
    hash_bytes,
    hash_object,
    put_part,
    read_manifest,
    write_manifest,
)
from longhaul_core.objects import ObjectStore

from longhaul_ingest.adapters.history import FILES
from longhaul_ingest.adapters.repository import parts_of, prefix_of, status_of
from longhaul_ingest.domain.documents import Outcome
from longhaul_ingest.domain.ingestion import IngestionSpec, Reason, manifest_key
from longhaul_ingest.domain.tally import Tally
from longhaul_ingest.domain.verdict import judge

SAMPLES: Final = "drop-samples.jsonl"


def spec_of(row: ResourceRow) -> IngestionSpec:
    """What was asked for, without what was found out about the files."""
    return IngestionSpec.model_validate({key: value for key, value in row.spec.items() if key != "inventory"})


def find_committed(store: ObjectStore, row: ResourceRow) -> Manifest | None:
    """The manifest, where the dataset is committed already."""
    try:
        return read_manifest(store, manifest_key(prefix_of(row)))
    except NotFound:
        return None


def commit(store: ObjectStore, row: ResourceRow, results: Sequence[Mapping[str, Any]]) -> Manifest | Reason:
    """Check the counts and write the manifest. The same results give the same manifest, so repeating is harmless."""
    spec, status, prefix = spec_of(row), status_of(row), prefix_of(row)
    tally = Tally.sum(result["tally"] for result in results)
    reason = judge(tally, _read_sources(row), spec.cleaning.maximum_failed_fraction)
    if reason is not None:
        lost = "".join(f" Set aside: {shard}" for shard in status.lost)
        return replace(reason, message=f"{reason.message}{lost}")
    parts = [Part.model_validate(part) for result in results for part in result["parts"]]
    samples = merge_samples(results, spec.cleaning.drop_samples)
    lines = "".join(json.dumps(sample, sort_keys=True) + "\n" for sample in samples)
    parts.append(put_part(store, f"{prefix}/{SAMPLES}", lines.encode()))
    files = f"{parts_of(row)}/{FILES}"
    parts.append(Part(key=files, size=store.stat(files).size, digest=hash_object(store, files)))
    names = [part.key.rpartition("/")[2] + part.digest for part in parts]
    manifest = Manifest(
        kind="Dataset",
        name=f"projects/{row.project}/datasets/{row.id}",
        uid=row.uid,
        created=row.created_at,
        config=row.spec,
        parts=parts,
        counts={"read": tally.read, **{outcome.value: tally.total(outcome) for outcome in Outcome}},
        extra={
            "content_digest": hash_bytes("\n".join(names).encode()),
            "sources": _sources(tally, spec),
            "drop_reasons": tally.reasons(),
            "tally": tally.to_dict(),
            "lost_shards": list(status.lost),
        },
    )
    return write_manifest(store, manifest_key(prefix), manifest, authority=CommitAuthority.of(store))


def _read_sources(row: ResourceRow) -> list[str]:
    """Names of the sources of which any file was to be read; one that continues others may have none that is new."""
    inventory = row.spec["inventory"]
    return [source["name"] for source in row.spec["sources"] if inventory[source["name"]]["files"]]


def merge_samples(results: Sequence[Mapping[str, Any]], limit: int) -> list[dict[str, str]]:
    """The first samples of each rule, over all shards in their order."""
    taken: Counter[str] = Counter()
    chosen = []
    for result in results:
        for sample in result["samples"]:
            taken[sample["rule"]] += 1
            if taken[sample["rule"]] <= limit:
                chosen.append(sample)
    return sorted(chosen, key=lambda sample: sample["rule"])


def read_samples(store: ObjectStore, row: ResourceRow) -> list[dict[str, str]]:
    """The samples of a committed dataset."""
    data = store.get(f"{prefix_of(row)}/{SAMPLES}").decode()
    return [json.loads(line) for line in data.split("\n") if line]


def _sources(tally: Tally, spec: IngestionSpec) -> dict[str, Any]:
    return {
        source.name: {
            "read": tally.records(source.name),
            "documents": tally.total(Outcome.KEPT, source.name),
            "text_bytes": tally.text_bytes[source.name],
            "drop_reasons": tally.reasons(source.name),
        }
        for source in spec.sources
    }
