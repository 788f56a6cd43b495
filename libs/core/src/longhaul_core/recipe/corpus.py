"""What corpus is told: deduplication, split, decontamination, tokenizer, mixture."""

from enum import StrEnum

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from longhaul_core.recipe.section import Section


class KeepRule(StrEnum):
    """Which document of a cluster of near-duplicates stays."""

    LONGEST = "longest"
    FIRST = "first"


class DeduplicationConfig(Section):
    """Exact and MinHash deduplication; 14 bands of 8 rows match at a similarity of about 0.72."""

    exact: bool = True
    minhash: bool = True
    ngram: PositiveInt = 5
    bands: PositiveInt = 14
    rows: PositiveInt = 8
    seed: NonNegativeInt = 1
    keep: KeepRule = KeepRule.LONGEST


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


class EvaluationTasksConfig(Section):
    """Evaluation tasks made from held-out documents, and the user's own files."""

    bits_per_byte_documents: NonNegativeInt = 64
    cloze_questions: NonNegativeInt = 100
    cloze_choices: int = Field(4, ge=2, le=10)
    files: list[str] = Field(default_factory=list, description="JSON lines in the cloze format")


class Digits(StrEnum):
    """Whether digits are tokens of their own."""

    INDIVIDUAL = "individual"
    NONE = "none"


class TokenizerConfig(Section):
    """A byte-level BPE trained on the corpus, or a tokenizer.json of the user's."""

    path: str = Field("", description="a tokenizer.json to import; empty: train one")
    vocabulary_size: int = Field(4096, ge=257)
    digits: Digits = Digits.INDIVIDUAL
    special_tokens: list[str] = Field(default_factory=list)
    maximum_bytes: NonNegativeInt = Field(0, description="training text is sampled down to this; 0: all")


class CorpusConfig(Section):
    """From documents to token shards."""

    deduplication: DeduplicationConfig = DeduplicationConfig()
    holdout: HoldoutConfig = HoldoutConfig()
    decontamination: DecontaminationConfig = DecontaminationConfig()
    evaluation_tasks: EvaluationTasksConfig = EvaluationTasksConfig()
    mixture: dict[str, PositiveFloat] = Field(default_factory=dict, description="weights; empty: by size")
    shuffle_seed: NonNegativeInt = 0
    shard_tokens: PositiveInt = 100_000_000
