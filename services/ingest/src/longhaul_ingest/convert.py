"""Protobuf on one side, the domain and stored rows on the other."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from longhaul.common.v1 import resource_pb2
from longhaul.ingest.v1 import dataset_pb2, ingestion_pb2
from longhaul_core.db import EventRow, ResourceRow
from longhaul_core.errors import InvalidArgument
from longhaul_core.ids import Collection, ResourceName
from longhaul_core.recipe import CleaningConfig, ExtractionMode, FilterConfig, SourceConfig, SourceKind
from longhaul_core.rpc.times import timestamp_of
from pydantic import ValidationError

from longhaul_ingest.domain.documents import Outcome
from longhaul_ingest.domain.ingestion import IngestionSpec, IngestionStatus, Reason
from longhaul_ingest.domain.tally import Tally

_KINDS = {
    ingestion_pb2.SOURCE_KIND_WARC: SourceKind.WARC,
    ingestion_pb2.SOURCE_KIND_WET: SourceKind.WET,
    ingestion_pb2.SOURCE_KIND_HTML: SourceKind.HTML,
    ingestion_pb2.SOURCE_KIND_JSONL: SourceKind.JSONL,
    ingestion_pb2.SOURCE_KIND_PARQUET: SourceKind.PARQUET,
    ingestion_pb2.SOURCE_KIND_TEXT: SourceKind.TEXT,
    ingestion_pb2.SOURCE_KIND_CODE: SourceKind.CODE,
    ingestion_pb2.SOURCE_KIND_CSV: SourceKind.CSV,
    ingestion_pb2.SOURCE_KIND_ARROW: SourceKind.ARROW,
    ingestion_pb2.SOURCE_KIND_MARKDOWN: SourceKind.MARKDOWN,
    ingestion_pb2.SOURCE_KIND_EPUB: SourceKind.EPUB,
    ingestion_pb2.SOURCE_KIND_PDF: SourceKind.PDF,
}
_MODES = {
    ingestion_pb2.EXTRACTION_MODE_UNSPECIFIED: ExtractionMode.QUALITY,
    ingestion_pb2.EXTRACTION_MODE_QUALITY: ExtractionMode.QUALITY,
    ingestion_pb2.EXTRACTION_MODE_FAST: ExtractionMode.FAST,
}
_KIND_NUMBERS = {kind: number for number, kind in _KINDS.items()}
_MODE_NUMBERS = {mode: number for number, mode in _MODES.items()}


def spec_from_proto(message: ingestion_pb2.IngestionSpec) -> IngestionSpec:
    """What a request asks for. Raises InvalidArgument with every violation of its form."""
    cleaning: dict[str, Any] = {"filters": [_filter(item) for item in message.filters]}
    if message.HasField("maximum_failed_fraction"):
        cleaning["maximum_failed_fraction"] = message.maximum_failed_fraction
    if message.HasField("drop_samples"):
        cleaning["drop_samples"] = message.drop_samples
    if message.HasField("fix_text"):
        cleaning["fix_text"] = message.fix_text
    cleaning["annotate"] = message.annotate
    cleaning["maximum_lost_shards"] = message.maximum_lost_shards
    cleaning["extraction"] = _MODES.get(message.extraction_mode, ExtractionMode.QUALITY)
    try:
        spec = IngestionSpec(
            sources=[_source(index, source) for index, source in enumerate(message.sources)],
            cleaning=CleaningConfig(**cleaning),
            continues=list(message.continues),
        )
    except ValidationError as error:
        raise _invalid("spec", error) from None
    spec.check()
    return spec


def _source(index: int, message: ingestion_pb2.Source) -> SourceConfig:
    path = f"spec.sources[{index}]"
    kind = _KINDS.get(message.kind)
    if kind is None:
        problem = f"kind is not set; known are {', '.join(item.value for item in SourceKind)}"
        raise InvalidArgument(f"{path}: {problem}", reason="SPEC_INVALID", violations=[(f"{path}.kind", problem)])
    fields: dict[str, Any] = {"name": message.name, "kind": kind, "path": list(message.locations)}
    fields["extensions"] = list(message.extensions)
    fields["lists"] = list(message.lists)
    fields["list_base"] = message.list_base
    if message.text_field:
        fields["text_field"] = message.text_field
    if message.url_field:
        fields["url_field"] = message.url_field
    try:
        return SourceConfig(**fields)
    except ValidationError as error:
        raise _invalid(path, error) from None


def _filter(message: ingestion_pb2.Filter) -> FilterConfig:
    values = json_format.MessageToDict(message.parameters)
    whole = {key: int(v) if isinstance(v, float) and v.is_integer() else v for key, v in values.items()}
    try:
        return FilterConfig(name=message.name, parameters=whole)
    except ValidationError as error:
        raise _invalid(f"spec.filters[{message.name}]", error) from None


def _invalid(path: str, error: ValidationError) -> InvalidArgument:
    violations = [
        (".".join([path, *map(str, item["loc"])]), item["msg"])
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    text = "; ".join(f"{field}: {problem}" for field, problem in violations)
    return InvalidArgument(text, reason="SPEC_INVALID", violations=violations)


def spec_to_proto(spec: IngestionSpec) -> ingestion_pb2.IngestionSpec:
    """The stored specification as it is shown: every default written out."""
    message = ingestion_pb2.IngestionSpec(
        extraction_mode=_MODE_NUMBERS[spec.cleaning.extraction],
        maximum_failed_fraction=spec.cleaning.maximum_failed_fraction,
        drop_samples=spec.cleaning.drop_samples,
        maximum_lost_shards=spec.cleaning.maximum_lost_shards,
        continues=spec.continues,
        annotate=spec.cleaning.annotate,
        fix_text=spec.cleaning.fix_text,
    )
    for source in spec.sources:
        message.sources.add(
            name=source.name,
            kind=_KIND_NUMBERS[source.kind],
            locations=source.paths,
            text_field=source.text_field,
            url_field=source.url_field,
            extensions=source.extensions,
            lists=source.lists,
            list_base=source.list_base,
        )
    for item in spec.cleaning.filters:
        parameters = Struct()
        parameters.update(item.parameters)
        message.filters.add(name=item.name, parameters=parameters)
    return message


def ingestion_to_proto(row: ResourceRow, spec: IngestionSpec, status: IngestionStatus) -> ingestion_pb2.Ingestion:
    """An ingestion as the API shows it."""
    return ingestion_pb2.Ingestion(
        metadata=_metadata(row, Collection.INGESTIONS), spec=spec_to_proto(spec), status=_status(row, status)
    )


def _status(row: ResourceRow, status: IngestionStatus) -> ingestion_pb2.IngestionStatus:
    tally = Tally.from_dict(status.tally)
    counts = {outcome: tally.total(outcome) + status.live_count(outcome.value) for outcome in Outcome}
    message = ingestion_pb2.IngestionStatus(
        state=resource_pb2.JobState.Value(f"JOB_STATE_{row.state}"),
        progress=_progress(status),
        documents_read=sum(counts.values()),
        documents_kept=counts[Outcome.KEPT],
        documents_dropped=counts[Outcome.DROPPED],
        documents_failed=counts[Outcome.FAILED],
        bytes_read=status.bytes_done,
        text_bytes_kept=tally.text_bytes.total(),
        dataset=str(ResourceName(row.project, Collection.DATASETS, row.id)),
        damages=[*tally.damages, *status.lost],
    )
    for (source, _, rule), count in sorted(tally.refused.items(), key=lambda item: (-item[1], item[0])):
        message.drops.add(source=source, rule=rule, documents=count)
    if status.reason is not None:
        message.reason.CopyFrom(_reason(status.reason))
    for text, field in ((status.started_at, message.start_time), (status.ended_at, message.end_time)):
        if text:
            field.CopyFrom(timestamp_of(datetime.fromisoformat(text)))
    return message


def _progress(status: IngestionStatus) -> resource_pb2.Progress:
    done, total = status.bytes_done, status.bytes_total
    message = resource_pb2.Progress(
        done=done,
        total=total,
        unit="bytes",
        fraction=min(done / total, 1.0) if total else 0.0,
        rate=status.rate,
        phase=f"shards {status.shards_done}/{status.shards_total}" if status.shards_total else "",
    )
    if status.eta_seconds is not None:
        eta = Duration()
        eta.FromTimedelta(timedelta(seconds=status.eta_seconds))
        message.eta.CopyFrom(eta)
    return message


def dataset_to_proto(row: ResourceRow) -> dataset_pb2.Dataset:
    """A dataset as the API shows it."""
    facts = row.spec
    message = dataset_pb2.Dataset(
        metadata=_metadata(row, Collection.DATASETS),
        ingestion=facts["ingestion"],
        manifest_key=facts["manifest_key"],
        digest=facts["digest"],
        documents=facts["documents"],
        text_bytes=sum(source["text_bytes"] for source in facts["sources"].values()),
        shards=facts["shards"],
    )
    for name, source in facts["sources"].items():
        message.sources.add(name=name, documents=source["documents"], text_bytes=source["text_bytes"])
    return message


def sample_to_proto(sample: Mapping[str, str]) -> ingestion_pb2.DropSample:
    """A sampled record as the API shows it."""
    return ingestion_pb2.DropSample(**sample)


def event_to_proto(event: EventRow) -> resource_pb2.Event:
    """An event as the API shows it."""
    data = Struct()
    data.update(event.data)
    return resource_pb2.Event(
        revision=event.revision,
        resource=str(ResourceName(event.project, Collection.INGESTIONS, event.id)),
        time=timestamp_of(event.at),
        type=event.type,
        cause=event.cause,
        message=event.message,
        data=data,
    )


def _reason(reason: Reason) -> resource_pb2.StateReason:
    return resource_pb2.StateReason(
        code=reason.code, message=reason.message, action=reason.action, metadata=dict(reason.metadata)
    )


def _metadata(row: ResourceRow, collection: Collection) -> resource_pb2.Metadata:
    return resource_pb2.Metadata(
        name=str(ResourceName(row.project, collection, row.id)),
        uid=row.uid,
        revision=row.revision,
        fingerprint=row.fingerprint,
        create_time=timestamp_of(row.created_at),
        update_time=timestamp_of(row.updated_at),
    )
