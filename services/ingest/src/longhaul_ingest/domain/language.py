"""The language of a text: by the user's fastText model, or by the detector that Resiliparse carries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Final

from longhaul_core.errors import FailedPrecondition

from longhaul_ingest.domain.refusal import Refusal
from longhaul_ingest.domain.wordlists import read_file

if TYPE_CHECKING:
    from longhaul_ingest.domain.features import Features

MODEL_THRESHOLD: Final = 0.65
"""For ft176 (Penedo et al. 2024)."""
DETECTOR_THRESHOLD: Final = 0.25
MAXIMUM_DISTANCE: Final = 1200
"""Resiliparse: at this distance from the language's profile a text is of none of its 110 languages."""
UNKNOWN: Final = "unknown"
DETECTED_CHARACTERS: Final = 20_000
"""The built-in detector looks at the beginning only: more changes its answer in no text of the recorded crawl."""
LABEL: Final = "__label__"


@dataclass(frozen=True, slots=True)
class Language:
    """Notes the language and its score, and refuses what is not in `languages`; without any it only notes.

    `model` is a fastText model file (lid.176.bin, GlotLID): its label and probability are taken. Without one the
    built-in detector answers; its score is 1 less the distance from the language's profile.
    """

    name: ClassVar[str] = "language"

    languages: tuple[str, ...] = ()
    model: str = ""
    min_score: float | None = None

    def refusals(self, text: Features) -> Iterator[Refusal]:
        """Refuse a language that is not wanted, or one that is too uncertain."""
        found, score = predict_language(text.text, self.model)
        text.labels["language"] = found
        text.labels["language_score"] = score
        threshold = self.min_score
        if threshold is None:
            threshold = MODEL_THRESHOLD if self.model else DETECTOR_THRESHOLD
        if self.languages and found not in self.languages:
            yield Refusal("languages", score, threshold, f"{found} ({score:.2f})")
        elif self.languages and score < threshold:
            yield Refusal("min_score", score, threshold, f"{found}: {score:.4g}, limit {threshold:.4g}")


def predict_language(text: str, model: str = "") -> tuple[str, float]:
    """Language and score, 0 to 1."""
    if model:
        labels, scores = load_model(model).predict(text.replace("\n", " "), k=1)
        label = str(labels[0]).removeprefix(LABEL) if labels else UNKNOWN
        return label, min(float(scores[0]), 1.0) if labels else 0.0
    from resiliparse.parse.lang import detect_fast

    found, distance = detect_fast(text[:DETECTED_CHARACTERS])
    return found, round(max(1 - distance / MAXIMUM_DISTANCE, 0.0), 4) if found != UNKNOWN else 0.0


@lru_cache(maxsize=4)
def load_model(path: str) -> Any:
    """The user's fastText model. Raises FailedPrecondition where it cannot be read."""
    import fasttext

    with_magic = read_head(path)
    if not with_magic:
        raise _no_model(path, "it does not begin as fastText models do")
    try:
        return fasttext.load_model(path)
    except (ValueError, RuntimeError, MemoryError) as error:
        raise _no_model(path, str(error)) from error


def read_head(path: str) -> bool:
    """Whether a file begins as fastText models do: its loader is not safe against other files."""
    return read_file(path)[:4] == b"\xba\x16\x4f\x2f"


def _no_model(path: str, problem: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{path} is no fastText model: {problem}.",
        reason="FILTER_MODEL_INVALID",
        metadata={"path": path},
        action="Point the filter to a model as fastText saves it (.bin or .ftz), or leave it out.",
    )
