"""Entry point of a build's steps in a worker process."""

from collections.abc import Callable, Mapping
from typing import Any

from longhaul_corpus.adapters.steps.commit import commit
from longhaul_corpus.adapters.steps.decontaminate import match_shard, settle
from longhaul_corpus.adapters.steps.deduplicate import deduplicate
from longhaul_corpus.adapters.steps.evaluation import make_tasks
from longhaul_corpus.adapters.steps.passages import cut_passages, find_passages, join_passages
from longhaul_corpus.adapters.steps.prepare import prepare
from longhaul_corpus.adapters.steps.shuffle import lay_out, write_shard
from longhaul_corpus.adapters.steps.signatures import sign_shard
from longhaul_corpus.adapters.steps.tokenise import tokenise_shard
from longhaul_corpus.adapters.steps.tokenizer import count_pieces, make_tokenizer
from longhaul_corpus.adapters.workspace import Workspace, load_context
from longhaul_corpus.domain.phases import Phase

Step = Callable[[Workspace, dict[str, Any]], dict[str, Any]]

STEPS: Mapping[Phase, Step] = {
    Phase.PREPARE: prepare,
    Phase.SIGNATURES: sign_shard,
    Phase.DEDUPLICATE: deduplicate,
    Phase.PASSAGES: find_passages,
    Phase.JOIN: join_passages,
    Phase.CUT: cut_passages,
    Phase.EVALUATION: make_tasks,
    Phase.DECONTAMINATE: match_shard,
    Phase.SETTLE: settle,
    Phase.PIECES: count_pieces,
    Phase.TOKENIZER: make_tokenizer,
    Phase.TOKENISE: tokenise_shard,
    Phase.LAYOUT: lay_out,
    Phase.SHUFFLE: write_shard,
    Phase.COMMIT: commit,
}


def run_step(payload: dict[str, Any]) -> dict[str, Any]:
    """Run one item of a phase: `context`, `phase` and `item` in, the item's result out."""
    workspace = Workspace(load_context(payload["context"]))
    return STEPS[Phase(payload["phase"])](workspace, payload["item"])
