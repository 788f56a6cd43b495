"""Specs of builds and tokenizers: protobuf on one side, the domain on the other."""

from typing import Literal

from longhaul.corpus.v1 import corpus_build_pb2
from longhaul_core.errors import InvalidArgument
from longhaul_core.ids import Collection, parse_name

from longhaul_corpus.domain.spec import (
    END_OF_TEXT,
    MAXIMUM_REPEATS,
    SHARD_TOKENS,
    BuildSpec,
    Decontamination,
    Deduplication,
    EvaluationTasks,
    Holdout,
    MixtureWeight,
    SamplingRule,
    TokenizerTraining,
)

_KEEP_RULES = {
    "longest": corpus_build_pb2.KEEP_RULE_LONGEST,
    "first": corpus_build_pb2.KEEP_RULE_FIRST,
    "best_score": corpus_build_pb2.KEEP_RULE_BEST_SCORE,
}
_KeepName = Literal["longest", "first", "best_score"]
_KEEP_NAMES: dict[int, _KeepName] = {
    corpus_build_pb2.KEEP_RULE_FIRST: "first",
    corpus_build_pb2.KEEP_RULE_BEST_SCORE: "best_score",
}
_ALGORITHMS: dict[str, Literal["bpe", "unigram"]] = {"bpe": "bpe", "unigram": "unigram"}
_DIGITS: dict[str, Literal["individual", "triples", "none"]] = {
    "individual": "individual",
    "triples": "triples",
    "none": "none",
}
_ACTIONS = {
    "drop": corpus_build_pb2.CONTAMINATION_ACTION_DROP,
    "cut": corpus_build_pb2.CONTAMINATION_ACTION_CUT,
}


def build_spec(spec: corpus_build_pb2.CorpusBuildSpec) -> BuildSpec:
    """Return what a build is asked to do, defaults filled in. Raises InvalidArgument for a name of another form."""
    for name in spec.datasets:
        parse_name(name, Collection.DATASETS, "datasets")
    if spec.tokenizer.tokenizer:
        parse_name(spec.tokenizer.tokenizer, Collection.TOKENIZERS, "tokenizer.tokenizer")
    training = spec.tokenizer.training if spec.tokenizer.HasField("training") else None
    return BuildSpec(
        datasets=tuple(spec.datasets),
        deduplication=_deduplication(spec.deduplication),
        holdout=Holdout(
            fraction=spec.holdout.fraction or Holdout().fraction,
            maximum_documents=spec.holdout.maximum_documents,
            seed=spec.holdout.seed,
        ),
        decontamination=_decontamination(spec),
        evaluation_tasks=EvaluationTasks(
            bits_per_byte_documents=spec.evaluation_tasks.bits_per_byte_documents,
            cloze_questions=spec.evaluation_tasks.cloze_questions,
            cloze_choices=spec.evaluation_tasks.cloze_choices or EvaluationTasks().cloze_choices,
            files=tuple(spec.evaluation_tasks.files),
        ),
        tokenizer=spec.tokenizer.tokenizer,
        training=tokenizer_training(training, END_OF_TEXT) if training is not None else None,
        mixture=tuple(MixtureWeight(entry.source, entry.weight) for entry in spec.mixture),
        sequence_length=spec.sequence_length,
        shuffle_seed=spec.shuffle_seed,
        shard_tokens=spec.shard_tokens or SHARD_TOKENS,
        sampling=tuple(map(_sampling_rule, spec.sampling)),
        maximum_repeats=spec.maximum_repeats or MAXIMUM_REPEATS,
        maximum_lost_shards=spec.maximum_lost_shards,
    )


def tokenizer_training(training: corpus_build_pb2.TokenizerTraining, end_of_text: str) -> TokenizerTraining:
    """Return how a tokenizer is trained."""
    if training.algorithm not in ("", *_ALGORITHMS):
        raise _unknown("training.algorithm", training.algorithm, ", ".join(_ALGORITHMS))
    if training.digits not in ("", *_DIGITS):
        raise _unknown("training.digits", training.digits, ", ".join(_DIGITS))
    return TokenizerTraining(
        vocabulary_size=training.vocabulary_size,
        algorithm=_ALGORITHMS.get(training.algorithm, "bpe"),
        digits=_DIGITS.get(training.digits, "individual"),
        special_tokens=tuple(training.special_tokens),
        end_of_text=end_of_text or END_OF_TEXT,
        maximum_bytes=training.maximum_bytes,
    )


def build_spec_to_proto(spec: BuildSpec) -> corpus_build_pb2.CorpusBuildSpec:
    """Return a spec as the API shows it: resolved."""
    rules, tasks, training = spec.deduplication, spec.evaluation_tasks, spec.training
    return corpus_build_pb2.CorpusBuildSpec(
        datasets=spec.datasets,
        deduplication=corpus_build_pb2.Deduplication(
            exact=rules.exact,
            minhash=rules.minhash,
            ngram=rules.ngram,
            bands=rules.bands,
            rows=rules.rows,
            seed=rules.seed,
            keep=_KEEP_RULES[rules.keep],
            keep_score=rules.keep_score,
            paragraph_characters=rules.paragraph_characters,
            substring_sentences=rules.substring_sentences,
            substring_words=rules.substring_words,
        ),
        holdout=corpus_build_pb2.Holdout(
            fraction=spec.holdout.fraction, maximum_documents=spec.holdout.maximum_documents, seed=spec.holdout.seed
        ),
        decontamination=corpus_build_pb2.Decontamination(
            ngram=spec.decontamination.ngram,
            action=_ACTIONS[spec.decontamination.action],
            question_ngram=spec.decontamination.question_ngram,
            files=spec.decontamination.files,
        ),
        evaluation_tasks=corpus_build_pb2.EvaluationTasks(
            bits_per_byte_documents=tasks.bits_per_byte_documents,
            cloze_questions=tasks.cloze_questions,
            cloze_choices=tasks.cloze_choices,
            files=tasks.files,
        ),
        tokenizer=corpus_build_pb2.TokenizerSource(
            tokenizer=spec.tokenizer, training=training_to_proto(training) if training else None
        ),
        mixture=[corpus_build_pb2.MixtureWeight(source=e.source, weight=e.weight) for e in spec.mixture],
        sequence_length=spec.sequence_length,
        shuffle_seed=spec.shuffle_seed,
        shard_tokens=spec.shard_tokens,
        sampling=[
            corpus_build_pb2.SamplingRule(
                source=rule.source, score=rule.score, minimum=rule.minimum, maximum=rule.maximum, repeat=rule.repeat
            )
            for rule in spec.sampling
        ],
        maximum_repeats=spec.maximum_repeats,
        maximum_lost_shards=spec.maximum_lost_shards,
    )


def training_to_proto(training: TokenizerTraining) -> corpus_build_pb2.TokenizerTraining:
    """Return how a tokenizer is trained as the API shows it."""
    return corpus_build_pb2.TokenizerTraining(
        vocabulary_size=training.vocabulary_size,
        algorithm=training.algorithm,
        digits=training.digits,
        special_tokens=training.special_tokens,
        maximum_bytes=training.maximum_bytes,
    )


def _deduplication(message: corpus_build_pb2.Deduplication) -> Deduplication:
    exact = message.exact if message.HasField("exact") else True
    return Deduplication(
        exact=exact,
        url=exact,
        minhash=message.minhash if message.HasField("minhash") else True,
        ngram=message.ngram or Deduplication().ngram,
        bands=message.bands or Deduplication().bands,
        rows=message.rows or Deduplication().rows,
        seed=message.seed,
        keep=_KEEP_NAMES.get(message.keep, "longest"),
        keep_score=message.keep_score,
        paragraph_characters=message.paragraph_characters,
        substring_sentences=message.substring_sentences,
        substring_words=message.substring_words,
    )


def _decontamination(spec: corpus_build_pb2.CorpusBuildSpec) -> Decontamination:
    if not spec.HasField("decontamination"):
        return Decontamination()
    cut = spec.decontamination.action == corpus_build_pb2.CONTAMINATION_ACTION_CUT
    return Decontamination(
        ngram=spec.decontamination.ngram,
        action="cut" if cut else "drop",
        question_ngram=spec.decontamination.question_ngram,
        files=tuple(spec.decontamination.files),
    )


def _sampling_rule(message: corpus_build_pb2.SamplingRule) -> SamplingRule:
    return SamplingRule(
        source=message.source,
        score=message.score,
        minimum=message.minimum if message.HasField("minimum") else None,
        maximum=message.maximum if message.HasField("maximum") else None,
        repeat=message.repeat,
    )


def _unknown(field: str, value: str, known: str) -> InvalidArgument:
    return InvalidArgument(
        f"{field} is {value!r}; known: {known}",
        reason="CORPUS_SPEC_INVALID",
        violations=[(field, f"{value!r} is not one of: {known}")],
    )
