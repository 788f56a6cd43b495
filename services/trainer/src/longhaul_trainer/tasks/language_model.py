"""The decoder as lm-eval's language model: log-likelihoods of texts, nothing generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from longhaul_core.errors import FailedPrecondition
from tokenizers import Tokenizer
from torch.nn import functional

from longhaul_trainer.model import Decoder

Scored = tuple[float, bool]


class DecoderLM(TemplateLM):  # type: ignore[misc]
    """Every text begins with the end-of-text token, as documents do in training.

    Requests are scored in batches of a fixed size, in an order that depends on their lengths alone: the batch size is
    part of a score's definition, as it moves the last bits.
    """

    def __init__(self, model: Decoder, tokenizer: Tokenizer, eos_id: int, *, batch_size: int) -> None:
        super().__init__()
        self._model = model
        self._tokens = tokenizer
        self._eos_id = eos_id
        self._batch_size = batch_size
        self._context = model.shape.context_length
        self._device = next(model.parameters()).device

    @property
    def eot_token_id(self) -> int:
        """Opens and closes documents."""
        return self._eos_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
        """Token ids without any special token."""
        ids: list[int] = self._tokens.encode(string, add_special_tokens=False).ids
        return ids

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in nats; each token is predicted once, with at most the full context."""
        windows: list[tuple[list[int], list[int]]] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            for pair in get_rolling_token_windows(tokens, self.prefix_token_id, self._context, 1):
                windows.append(make_disjoint_window(pair))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._score(windows), strict=True):
            totals[owner] += value
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Refused: no task of a token set generates."""
        raise FailedPrecondition("Tasks that generate text are not supported", reason="GENERATION_UNSUPPORTED")

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: object
    ) -> list[tuple[float, bool]]:
        prefix = [self.prefix_token_id]
        return self._score(
            [
                (context if context[:1] == prefix else prefix + context, continuation)
                for _, context, continuation in requests
            ]
        )

    @torch.no_grad()
    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Scored]:
        """Log-likelihood of each continuation after its context, and whether each token was the likeliest."""
        order = sorted(range(len(pairs)), key=lambda number: (-len(pairs[number][0]) - len(pairs[number][1]), number))
        scores: list[Scored] = [(0.0, True)] * len(pairs)
        for begin in range(0, len(order), self._batch_size):
            chosen = order[begin : begin + self._batch_size]
            for number, score in zip(chosen, self._score_batch([pairs[n] for n in chosen]), strict=True):
                scores[number] = score
        return scores

    def _score_batch(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Scored]:
        rows = [(context + continuation)[-self._context - 1 :] for context, continuation in pairs]
        width = max(len(row) for row in rows) - 1
        tokens = torch.full((len(rows), width), self._eos_id, dtype=torch.int64)
        for number, row in enumerate(rows):
            tokens[number, : len(row) - 1] = torch.tensor(row[:-1])
        positions = torch.arange(width).expand(len(rows), width)
        logits = self._model(tokens.to(self._device), positions.to(self._device)).float()
        return [
            self._score_row(logits[number], row, len(pair[1]))
            for number, (row, pair) in enumerate(zip(rows, pairs, strict=True))
        ]

    def _score_row(self, logits: torch.Tensor, row: list[int], count: int) -> Scored:
        count = min(count, len(row) - 1)
        if count == 0:
            return 0.0, True
        targets = torch.tensor(row[-count:], device=logits.device)
        relevant = logits[len(row) - 1 - count : len(row) - 1]
        chosen = functional.log_softmax(relevant, dim=-1).gather(1, targets.unsqueeze(1))
        return float(chosen.double().sum()), bool((relevant.argmax(dim=-1) == targets).all())
