"""The only place where protobuf meets the domain."""

from longhaul_corpus.convert.resources import (
    build_to_proto,
    change_type,
    duplicate_to_proto,
    event_to_proto,
    name_of,
    report_to_proto,
    score_to_proto,
    token_set_to_proto,
    tokenizer_to_proto,
)
from longhaul_corpus.convert.specs import build_spec, build_spec_to_proto, tokenizer_training, training_to_proto

__all__ = [
    "build_spec",
    "build_spec_to_proto",
    "build_to_proto",
    "change_type",
    "duplicate_to_proto",
    "event_to_proto",
    "name_of",
    "report_to_proto",
    "score_to_proto",
    "token_set_to_proto",
    "tokenizer_to_proto",
    "tokenizer_training",
    "training_to_proto",
]
