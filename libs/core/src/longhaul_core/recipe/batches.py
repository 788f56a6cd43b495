"""How batches are drawn from the token set."""

from enum import StrEnum
from itertools import pairwise
from typing import Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from longhaul_core.recipe.section import Section


class BatchRamp(Section):
    """A smaller global batch up to and including a step."""

    until_step: PositiveInt
    global_batch_size: PositiveInt


class ContextStage(Section):
    """A context length from a step on, with its own rotary base and batch; data are drawn anew in a new order."""

    after_step: PositiveInt
    sequence_length: PositiveInt
    rope_theta: NonNegativeFloat = Field(0.0, description="0: as before")
    global_batch_size: NonNegativeInt = Field(0, description="0: as before")
    micro_batch_size: NonNegativeInt = Field(0, description="0: as before")
    mixture: dict[str, PositiveFloat] = Field(default_factory=dict, description="empty: as before")


class Packing(StrEnum):
    """How documents become sequences of one length."""

    CONCATENATE = "concatenate"
    BEST_FIT = "best_fit"


class MixtureStage(Section):
    """Weights of the sources from a step on, reached over a ramp; such as the best data for the decay."""

    from_step: PositiveInt
    ramp_steps: NonNegativeInt = Field(0, description="from the weights before to these, evenly")
    mixture: dict[str, PositiveFloat] = Field(min_length=1, description="weights by source; others get none")


class DataConfig(Section):
    """How batches are drawn from the token set."""

    sequence_length: PositiveInt = 256
    global_batch_size: PositiveInt = Field(16, description="sequences an optimizer step, over all ranks")
    micro_batch_size: NonNegativeInt = Field(
        8, description="sequences a rank holds at once; the rest is accumulated. 0: the largest that fits is found"
    )
    micro_batch_memory_gib: NonNegativeFloat = Field(
        0.0,
        description="what a rank may hold with a found micro-batch; 0: 90 % of its GPU, or of its share of the machine",
    )
    document_masking: bool = Field(True, description="attention stays inside a document")
    shuffle_seed: NonNegativeInt = 0
    cache_bytes: NonNegativeInt = Field(
        0, description="of shards in an object store, kept on each node; the least recently read go; 0: all are kept"
    )
    maximum_epochs: PositiveFloat = Field(5.0, description="the run fails before a source is repeated more often")
    mixture: dict[str, PositiveFloat] = Field(default_factory=dict, description="weights; empty: the token set's own")
    batch_ramp: list[BatchRamp] = Field(default_factory=list, description="smaller batches at the beginning")
    context_stages: list[ContextStage] = Field(default_factory=list, description="longer contexts later on")
    mixture_stages: list[MixtureStage] = Field(default_factory=list, description="other weights later on")
    packing: Packing = Field(
        Packing.CONCATENATE,
        description="best_fit: only documents longer than a sequence are cut; rests are padded",
    )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        for name, steps in (
            ("batch_ramp", [part.until_step for part in self.batch_ramp]),
            ("context_stages", [stage.after_step for stage in self.context_stages]),
            ("mixture_stages", [stage.from_step for stage in self.mixture_stages]),
        ):
            if steps != sorted(set(steps)):
                raise ValueError(f"{name}: steps must rise, not {steps}")
        for before, after in pairwise(self.mixture_stages):
            if before.from_step + before.ramp_steps > after.from_step:
                raise ValueError(f"mixture_stages: step {after.from_step} lies in the ramp from {before.from_step}")
        return self
