"""What the engine runs, by name; the steps, and the numerics and Arrow that they need, are loaded in workers only."""

from typing import Any, Final

WORKER_MODULES: Final = ("longhaul_corpus.adapters.steps.run", "longhaul_corpus.adapters.steps.standalone")
"""What a worker loads before its first task."""

Payload = dict[str, Any]


def run_step(payload: Payload) -> Payload:
    """Run one item of a phase."""
    from longhaul_corpus.adapters.steps import run

    return run.run_step(payload)


def import_tokenizer(payload: Payload) -> Payload:
    """Read a user's tokenizer and commit it."""
    from longhaul_corpus.adapters.steps import standalone

    return standalone.import_step(payload)


def train_tokenizer(payload: Payload) -> Payload:
    """Train a tokenizer on whole datasets."""
    from longhaul_corpus.adapters.steps import standalone

    return standalone.train_step(payload)


def score_tokenizer(payload: Payload) -> Payload:
    """Score a committed tokenizer."""
    from longhaul_corpus.adapters.steps import standalone

    return standalone.score_step(payload)
