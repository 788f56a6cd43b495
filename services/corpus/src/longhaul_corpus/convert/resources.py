"""Rows of the database as the API shows them."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from longhaul.common.v1 import resource_pb2
from longhaul.corpus.v1 import corpus_build_pb2, token_set_pb2, tokenizer_pb2
from longhaul_core.db import EventRow, ResourceRow
from longhaul_core.ids import Collection, ResourceName
from longhaul_core.rpc.times import timestamp_of

from longhaul_corpus.adapters.records import BUILD, TOKEN_SET, TOKENIZER, load_spec, load_training
from longhaul_corpus.convert.specs import build_spec_to_proto, training_to_proto
from longhaul_corpus.domain.phases import PHASES, Phase

_COLLECTIONS = {
    BUILD: Collection.CORPUS_BUILDS,
    TOKEN_SET: Collection.TOKEN_SETS,
    TOKENIZER: Collection.TOKENIZERS,
}
_UNITS = {
    Phase.SIGNATURES: "shards",
    Phase.DECONTAMINATE: "shards",
    Phase.PIECES: "shards",
    Phase.TOKENISE: "shards",
    Phase.SHUFFLE: "shards",
}


def name_of(row: ResourceRow) -> str:
    """Full name of a resource."""
    return str(ResourceName(row.project, _COLLECTIONS[row.kind], row.id))


def change_type(row: ResourceRow) -> resource_pb2.ChangeType.ValueType:
    """What a watch says of a row."""
    return resource_pb2.CHANGE_TYPE_DELETED if row.deleted else resource_pb2.CHANGE_TYPE_UPDATED


def build_to_proto(row: ResourceRow) -> corpus_build_pb2.CorpusBuild:
    """Return a build."""
    spec, status = load_spec(row.spec), row.status
    counts = status.get("counts", {})
    return corpus_build_pb2.CorpusBuild(
        metadata=_metadata(row),
        spec=build_spec_to_proto(spec),
        status=corpus_build_pb2.CorpusBuildStatus(
            state=_state(row),
            reason=_reason(status),
            progress=_progress(status),
            phases=_phases(status),
            documents_in=counts.get("documents", 0),
            documents_train=counts.get("train", 0),
            documents_valid=counts.get("valid", 0),
            documents_duplicate=counts.get("duplicate", 0),
            documents_contaminated=counts.get("contaminated", 0),
            documents_failed=counts.get("failed", 0),
            lost_shards=[shard["message"] for shard in status.get("lost", ())],
            tokens_train=counts.get("train_tokens", 0),
            tokens_valid=counts.get("valid_tokens", 0),
            token_set=str(ResourceName(row.project, Collection.TOKEN_SETS, row.id)),
            tokenizer=spec.tokenizer or str(ResourceName(row.project, Collection.TOKENIZERS, row.id)),
            inputs=[
                resource_pb2.InputReference(name=found["name"], digest=found["digest"])
                for found in status.get("inputs", [])
            ],
            start_time=_time(status.get("start")),
            end_time=_time(status.get("end")),
        ),
    )


def token_set_to_proto(row: ResourceRow) -> token_set_pb2.TokenSet:
    """Return a token set."""
    status = row.status
    return token_set_pb2.TokenSet(
        metadata=_metadata(row),
        corpus_build=row.spec["corpus_build"],
        manifest_key=status["manifest_key"],
        digest=status["digest"],
        tokenizer=status["tokenizer"],
        vocabulary_size=status["vocabulary_size"],
        train_tokens=status["counts"]["train_tokens"],
        valid_tokens=status["counts"]["valid_tokens"],
        sources=[token_set_pb2.TokenSetSource(**source) for source in status["sources"]],
        evaluation_tasks=status["evaluation_tasks"],
        validation_unigram_entropy_nats=status["validation"].get("unigram_entropy_nats", 0.0),
        validation_bytes_per_token=status["validation"]["bytes_per_token"],
    )


def tokenizer_to_proto(row: ResourceRow) -> tokenizer_pb2.Tokenizer:
    """Return a tokenizer; an imported one without its content."""
    status = row.status
    training = load_training(row.spec["training"]) if row.spec["training"] else None
    return tokenizer_pb2.Tokenizer(
        metadata=_metadata(row),
        spec=tokenizer_pb2.TokenizerSpec(
            training=training_to_proto(training) if training else None,
            datasets=row.spec["datasets"],
            end_of_text=status.get("end_of_text", row.spec.get("end_of_text", "")),
        ),
        status=tokenizer_pb2.TokenizerStatus(
            state=_state(row),
            reason=_reason(status),
            vocabulary_size=status.get("vocabulary_size", 0),
            end_of_text_id=status.get("end_of_text_id", 0),
            key=status.get("key", ""),
            digest=status.get("digest", ""),
            scores=[score_to_proto(score) for score in status.get("scores", [])],
        ),
    )


def score_to_proto(score: Mapping[str, Any]) -> tokenizer_pb2.TokenizerScore:
    """Return the figures of one source."""
    return tokenizer_pb2.TokenizerScore(**score)


def duplicate_to_proto(pair: Mapping[str, Any]) -> corpus_build_pb2.DuplicatePair:
    """Return which document was dropped for which."""
    return corpus_build_pb2.DuplicatePair(**{name: value for name, value in pair.items() if value is not None})


def report_to_proto(name: str, report: Mapping[str, Any]) -> corpus_build_pb2.CorpusReport:
    """Return a report."""
    return corpus_build_pb2.CorpusReport(name=name, content=json_format.ParseDict(dict(report), Struct()))


def event_to_proto(event: EventRow, name: str) -> resource_pb2.Event:
    """Return an event of the named resource."""
    return resource_pb2.Event(
        revision=event.revision,
        resource=name,
        time=timestamp_of(event.at),
        type=event.type,
        cause=event.cause,
        message=event.message,
        data=json_format.ParseDict(event.data, Struct()),
    )


def _metadata(row: ResourceRow) -> resource_pb2.Metadata:
    return resource_pb2.Metadata(
        name=name_of(row),
        uid=row.uid,
        revision=row.revision,
        fingerprint=row.fingerprint,
        create_time=timestamp_of(row.created_at),
        update_time=timestamp_of(row.updated_at),
    )


def _state(row: ResourceRow) -> resource_pb2.JobState.ValueType:
    return resource_pb2.JobState.Value(f"JOB_STATE_{row.state}")


def _reason(status: Mapping[str, Any]) -> resource_pb2.StateReason | None:
    reason = status.get("reason")
    return resource_pb2.StateReason(**reason) if reason else None


def _progress(status: Mapping[str, Any]) -> resource_pb2.Progress:
    """Progress over all phases, in phases done; `fraction` weighs them by their usual time."""
    phases = status.get("phases", {})
    progress = resource_pb2.Progress(
        done=sum("end" in phase for phase in phases.values()),
        total=len(PHASES),
        unit="phases",
        fraction=status.get("fraction", 0.0),
        phase=status.get("phase", ""),
    )
    if status.get("eta_seconds") is not None:
        progress.eta.FromTimedelta(timedelta(seconds=status["eta_seconds"]))
    return progress


def _phases(status: Mapping[str, Any]) -> list[corpus_build_pb2.BuildPhase]:
    known = status.get("phases", {})
    return [_phase(phase, known[phase.value]) for phase in PHASES if phase.value in known]


def _phase(phase: Phase, known: Mapping[str, Any]) -> corpus_build_pb2.BuildPhase:
    total = known["total"]
    return corpus_build_pb2.BuildPhase(
        name=phase.value,
        progress=resource_pb2.Progress(
            done=int(known["done"]),
            total=total,
            unit=_UNITS.get(phase, "steps"),
            fraction=known["done"] / total if total else 1.0,
            phase=phase.value,
        ),
        start_time=_time(known.get("start")),
        end_time=_time(known.get("end")),
    )


def _time(text: str | None) -> Timestamp | None:
    return timestamp_of(datetime.fromisoformat(text)) if text else None
