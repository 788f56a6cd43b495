"""What a corpus build is asked to do, checked: plain values without defaults left open."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from longhaul_core.errors import InvalidArgument, Violation

BYTE_ALPHABET = 256
END_OF_TEXT = "<|endoftext|>"
MAXIMUM_VOCABULARY = 1 << 24
SHARD_TOKENS = 100_000_000
MAXIMUM_REPEATS = 16.0


@dataclass(frozen=True, slots=True)
class Deduplication:
    """Exact (text, URL) and near deduplication."""

    exact: bool = True
    url: bool = True
    minhash: bool = True
    ngram: int = 5
    bands: int = 14
    rows: int = 8
    seed: int = 1
    keep: Literal["longest", "first", "best_score"] = "longest"
    keep_score: str = ""
    paragraph_characters: int = 0
    substring_sentences: int = 0
    substring_words: int = 0

    @property
    def cuts_passages(self) -> bool:
        """Whether repeated paragraphs, or runs of sentences or words, are cut out of documents."""
        return bool(self.paragraph_characters or self.substring_sentences or self.substring_words)

    def violations(self) -> Iterator[Violation]:
        """Yield what is wrong with the values."""
        for name, value, maximum in (("ngram", self.ngram, 64), ("bands", self.bands, 256), ("rows", self.rows, 64)):
            if not 1 <= value <= maximum:
                yield f"deduplication.{name}", f"{value} is not between 1 and {maximum}"
        if (self.keep == "best_score") != bool(self.keep_score):
            yield "deduplication.keep_score", "it is needed by the rule best_score, and by no other"
        if self.paragraph_characters < 0:
            yield "deduplication.paragraph_characters", f"{self.paragraph_characters} is negative"
        if not 0 <= self.substring_sentences <= 100:
            yield "deduplication.substring_sentences", f"{self.substring_sentences} is not between 0 and 100 sentences"
        if self.substring_words and not 5 <= self.substring_words <= 10_000:
            yield "deduplication.substring_words", f"{self.substring_words} is neither 0 nor between 5 and 10000 words"


@dataclass(frozen=True, slots=True)
class Holdout:
    """Held-out split by near-duplicate cluster."""

    fraction: float = 0.02
    minimum_documents: int = 1
    maximum_documents: int = 0
    seed: int = 0

    def violations(self) -> Iterator[Violation]:
        """Yield what is wrong with the values."""
        if self.maximum_documents < 0:
            yield "holdout.maximum_documents", f"{self.maximum_documents} is negative"
        if not 0 < self.fraction < 1:
            yield "holdout.fraction", f"{self.fraction} is not between 0 and 1"
        if self.maximum_documents and self.maximum_documents < self.minimum_documents:
            yield "holdout.maximum_documents", f"{self.maximum_documents} is below the minimum {self.minimum_documents}"


@dataclass(frozen=True, slots=True)
class Decontamination:
    """Removal of evaluation text from the training side; `ngram` 0 switches it off."""

    ngram: int = 13
    action: Literal["drop", "cut"] = "drop"
    question_ngram: int = 0
    files: tuple[str, ...] = ()

    def violations(self) -> Iterator[Violation]:
        """Yield what is wrong with the values."""
        if self.ngram and not 5 <= self.ngram <= 100:
            yield "decontamination.ngram", f"{self.ngram} is neither 0 nor between 5 and 100 words"
        if self.question_ngram and not 5 <= self.question_ngram <= 100:
            yield "decontamination.question_ngram", f"{self.question_ngram} is neither 0 nor between 5 and 100 words"


@dataclass(frozen=True, slots=True)
class EvaluationTasks:
    """Tasks made from held-out documents, and files of the user's own."""

    bits_per_byte_documents: int = 0
    cloze_questions: int = 0
    cloze_choices: int = 4
    files: tuple[str, ...] = ()

    def violations(self) -> Iterator[Violation]:
        """Yield what is wrong with the values."""
        for name, count in (
            ("bits_per_byte_documents", self.bits_per_byte_documents),
            ("cloze_questions", self.cloze_questions),
        ):
            if count < 0:
                yield f"evaluation_tasks.{name}", f"{count} is negative"
        if not 2 <= self.cloze_choices <= 26:
            yield "evaluation_tasks.cloze_choices", f"{self.cloze_choices} is not between 2 and 26"


@dataclass(frozen=True, slots=True)
class TokenizerTraining:
    """How a tokenizer is trained; `maximum_bytes` 0 takes all text."""

    vocabulary_size: int
    algorithm: Literal["bpe", "unigram"] = "bpe"
    digits: Literal["individual", "triples", "none"] = "individual"
    special_tokens: tuple[str, ...] = ()
    end_of_text: str = END_OF_TEXT
    maximum_bytes: int = 0

    @property
    def specials(self) -> tuple[str, ...]:
        """Special tokens in order of their ids: the end of a document first."""
        return (self.end_of_text, *(token for token in self.special_tokens if token != self.end_of_text))

    @property
    def from_counts(self) -> bool:
        """Whether counts of the text's pieces are all that training needs, so that shards are counted side by side."""
        return self.algorithm == "bpe" and self.digits != "triples"

    def violations(self) -> Iterator[Violation]:
        """Yield what is wrong with the values."""
        if self.maximum_bytes < 0:
            yield "tokenizer.training.maximum_bytes", f"{self.maximum_bytes} is negative"
        least = BYTE_ALPHABET + len(self.specials)
        if not least <= self.vocabulary_size <= MAXIMUM_VOCABULARY:
            yield (
                "tokenizer.training.vocabulary_size",
                f"{self.vocabulary_size} is not between {least} (bytes and special tokens) and {MAXIMUM_VOCABULARY}",
            )


@dataclass(frozen=True, slots=True)
class SamplingRule:
    """How often documents of a source, or with a score in [minimum, maximum), are taken."""

    source: str = ""
    score: str = ""
    minimum: float | None = None
    maximum: float | None = None
    repeat: float = 1.0

    def violations(self) -> Iterator[Violation]:
        """Yield what is wrong with the values."""
        if not self.repeat > 0:
            yield "sampling.repeat", f"{self.repeat} is not above 0"
        if (self.minimum is not None or self.maximum is not None) and not self.score:
            yield "sampling.score", "bounds need the name of a score"


@dataclass(frozen=True, slots=True)
class MixtureWeight:
    """Weight of one source in the training mixture."""

    source: str
    weight: float


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """A whole corpus build. Exactly one of `tokenizer` (a resource name) and `training` is set."""

    datasets: tuple[str, ...]
    deduplication: Deduplication = field(default_factory=Deduplication)
    holdout: Holdout = field(default_factory=Holdout)
    decontamination: Decontamination = field(default_factory=Decontamination)
    evaluation_tasks: EvaluationTasks = field(default_factory=EvaluationTasks)
    tokenizer: str = ""
    training: TokenizerTraining | None = None
    mixture: tuple[MixtureWeight, ...] = ()
    sequence_length: int = 0
    shuffle_seed: int = 0
    shard_tokens: int = SHARD_TOKENS
    sampling: tuple[SamplingRule, ...] = ()
    maximum_repeats: float = MAXIMUM_REPEATS
    maximum_lost_shards: int = 0

    def violations(self) -> Iterator[Violation]:
        """Yield what is wrong with the values, field by field."""
        if not self.datasets:
            yield "datasets", "at least one dataset is needed"
        if bool(self.tokenizer) == (self.training is not None):
            yield "tokenizer", "exactly one of a tokenizer's name and its training is needed"
        parts = (self.deduplication, self.holdout, self.decontamination, self.evaluation_tasks, self.training)
        for part in (*parts, *self.sampling):
            if part is not None:
                yield from part.violations()
        if self.sequence_length < 0:
            yield "sequence_length", f"{self.sequence_length} is negative"
        if self.maximum_lost_shards < 0:
            yield "maximum_lost_shards", f"{self.maximum_lost_shards} is negative"
        if self.shard_tokens < 1:
            yield "shard_tokens", f"{self.shard_tokens} is not above 0"
        names = [entry.source for entry in self.mixture]
        for entry in self.mixture:
            if not entry.weight > 0:
                yield "mixture", f"the weight of source {entry.source!r} is {entry.weight}, not above 0"
            if names.count(entry.source) > 1:
                yield "mixture", f"source {entry.source!r} is named more than once"


def check_spec(spec: BuildSpec) -> None:
    """Raise InvalidArgument that names every wrong field."""
    violations = list(dict.fromkeys(spec.violations()))
    if violations:
        raise InvalidArgument(
            "; ".join(f"{field}: {description}" for field, description in violations),
            reason="CORPUS_SPEC_INVALID",
            violations=violations,
        )
