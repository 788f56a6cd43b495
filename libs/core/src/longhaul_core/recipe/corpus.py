"""What corpus is told: deduplication, split, decontamination, tokenizer, mixture."""

from enum import StrEnum

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from longhaul_core.recipe.section import Section


class KeepRule(StrEnum):
    """Which document of a cluster of near-duplicates stays."""

    LONGEST = "longest"
    FIRST = "first"
    BEST_SCORE = "best_score"


class DeduplicationConfig(Section):
    """Exact and MinHash deduplication; 14 bands of 8 rows match at a similarity of about 0.72."""

    exact: bool = True
    minhash: bool = True
    ngram: PositiveInt = 5
    bands: PositiveInt = 14
    rows: PositiveInt = 8
    seed: NonNegativeInt = 1
    keep: KeepRule = KeepRule.LONGEST
    keep_score: str = Field("", description="name of the score for best_score, such as quality")
    paragraph_characters: NonNegativeInt = Field(
        0, description="paragraphs so long that stood in an earlier document are cut out; 0: off"
    )
    substring_sentences: NonNegativeInt = Field(
        0, description="runs of so many sentences that stood before anywhere are cut out; 0: off, 3 is usual"
    )
    substring_words: NonNegativeInt = Field(
        0, description="passages of so many words that stood before anywhere are cut out; 0: off, 50 is usual"
    )


class HoldoutConfig(Section):
    """The held-out split, made by near-duplicate cluster."""

    fraction: float = Field(0.02, gt=0, lt=1)
    maximum_documents: NonNegativeInt = Field(0, description="0: no limit")
    seed: NonNegativeInt = 0


class ContaminationAction(StrEnum):
    """What happens to a training document that shares an n-gram with an evaluation item."""

    DROP = "drop"
    CUT = "cut"


class DecontaminationConfig(Section):
    """Removal of evaluation text from the training side."""

    ngram: NonNegativeInt = Field(13, description="words; 0 switches it off")
    action: ContaminationAction = ContaminationAction.DROP
    question_ngram: NonNegativeInt = Field(0, description="words of the n-grams of questions alone; 0: as ngram")
    files: list[str] = Field(default_factory=list, description="further evaluation sets to check against, JSON lines")


class EvaluationTasksConfig(Section):
    """Evaluation tasks made from held-out documents, and the user's own files."""

    bits_per_byte_documents: NonNegativeInt = 64
    cloze_questions: NonNegativeInt = 100
    cloze_choices: int = Field(4, ge=2, le=10)
    files: list[str] = Field(default_factory=list, description="JSON lines in the cloze format")


class Digits(StrEnum):
    """How numbers are split: digit by digit, in groups of three, or not."""

    INDIVIDUAL = "individual"
    TRIPLES = "triples"
    NONE = "none"


class TokenizerAlgorithm(StrEnum):
    """What is trained: byte-level BPE, or unigram with byte fallback as in SentencePiece."""

    BPE = "bpe"
    UNIGRAM = "unigram"


class TokenizerConfig(Section):
    """A tokenizer trained on the corpus, or one of the user's."""

    path: str = Field("", description="a tokenizer.json or SentencePiece model to import; empty: train one")
    algorithm: TokenizerAlgorithm = TokenizerAlgorithm.BPE
    vocabulary_size: int = Field(4096, ge=257)
    digits: Digits = Digits.INDIVIDUAL
    special_tokens: list[str] = Field(default_factory=list)
    maximum_bytes: NonNegativeInt = Field(0, description="training text is sampled down to this; 0: all")


class SamplingRule(Section):
    """How often documents are taken: 0.5 takes half of them, 2 each twice. Rules that fit a document multiply."""

    source: str = Field("", description="empty: every source")
    score: str = Field("", description="name of a score, such as quality; empty: whatever the score")
    minimum: float | None = Field(None, description="from this score on")
    maximum: float | None = Field(None, description="below this score")
    repeat: float = Field(gt=0)


class CorpusConfig(Section):
    """From documents to token shards."""

    deduplication: DeduplicationConfig = DeduplicationConfig()
    holdout: HoldoutConfig = HoldoutConfig()
    decontamination: DecontaminationConfig = DecontaminationConfig()
    evaluation_tasks: EvaluationTasksConfig = EvaluationTasksConfig()
    mixture: dict[str, PositiveFloat] = Field(default_factory=dict, description="weights; empty: by size")
    sampling: list[SamplingRule] = Field(default_factory=list)
    maximum_repeats: PositiveFloat = Field(16.0, description="a document taken more often fails the build")
    maximum_lost_shards: NonNegativeInt = Field(0, description="dataset files set aside before the build fails")
    shuffle_seed: NonNegativeInt = 0
    shard_tokens: PositiveInt = 100_000_000
