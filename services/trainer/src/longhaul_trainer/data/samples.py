"""The global order of training samples: sample index in, tokens out, the same for any number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from blake3 import blake3
from longhaul_core.errors import FailedPrecondition
from numpy.typing import NDArray

from longhaul_trainer.data.mixture import Mixture, Stage
from longhaul_trainer.data.packing import PackedStream
from longhaul_trainer.data.permutation import Indices, derive_key, permute
from longhaul_trainer.data.tokens import IGNORED_LABEL, TokenStream

__all__ = ["IGNORED_LABEL", "Batch", "SampleOrder", "read_sequences", "stripe"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Fixed-length sequences. tokens, labels, positions: int64[B, T]; labels not to be learned are -100."""

    tokens: Indices
    labels: Indices
    positions: Indices

    @property
    def cu_seqlens(self) -> NDArray[np.int32]:
        """Where the documents of the flattened batch begin, and where it ends: what variable-length attention takes.

        int32[documents + 1]; a document cut by the end of a sequence counts anew in the next.
        """
        flat = self.positions.reshape(-1)
        return np.append(np.flatnonzero(flat == 0), flat.size).astype(np.int32)

    def rows(self, begin: int, end: int) -> Batch:
        """Sequences begin .. end of this batch."""
        return Batch(self.tokens[begin:end], self.labels[begin:end], self.positions[begin:end])


class SampleOrder:
    """Every sample of a run in its global order.

    A source's sequences are permuted anew each epoch; the mixture decides which source a sample comes from. Nothing
    but the sample index is needed to continue, whatever the data-parallel degree.
    """

    def __init__(
        self,
        streams: Sequence[TokenStream | PackedStream],
        weights: Sequence[float],
        *,
        sequence_length: int,
        seed: int,
        document_masking: bool,
        stages: Sequence[Stage] = (),
        shuffled: bool = True,
    ) -> None:
        self.streams = list(streams)
        self.sequence_length = sequence_length
        self._mixture = Mixture(weights, seed, stages)
        self._seed = seed
        self._shuffled = shuffled
        self._document_masking = document_masking
        self._sizes = np.array([stream.sequences(sequence_length) for stream in streams], dtype=np.int64)
        self._stream_keys = np.array(
            [int.from_bytes(blake3(stream.name.encode()).digest(7), "little") for stream in streams], dtype=np.int64
        )
        self._require_sequences()

    def _require_sequences(self) -> None:
        for stream, size, used in zip(self.streams, self._sizes, self._mixture.used, strict=True):
            if used and not size:
                raise FailedPrecondition(
                    f"Source {stream.name} has {stream.tokens} tokens, too few for one sequence of "
                    f"{self.sequence_length}",
                    reason="SEQUENCE_LONGER_THAN_SOURCE",
                    metadata={"source": stream.name, "tokens": str(stream.tokens)},
                    action="shorten the sequence length, give the source more text or leave it out of the mixture",
                )

    def require_epochs(self, samples: int, maximum_epochs: float) -> None:
        """Refuses a run of so many samples if it would repeat any source more than allowed.

        Raises:
            FailedPrecondition: naming the source, the epochs needed and those allowed.
        """
        for stream, size, consumed in zip(self.streams, self._sizes, self._mixture.consumed(samples), strict=True):
            if consumed > maximum_epochs * size:
                raise FailedPrecondition(
                    f"Source {stream.name} would be read {consumed / size:.2f} times by {samples} samples; "
                    f"{maximum_epochs:g} epochs are allowed",
                    reason="EPOCHS_EXCEEDED",
                    metadata={"source": stream.name, "sequences": str(size), "samples": str(int(consumed))},
                    action="train for fewer steps, add text, lower the source's weight or raise data.maximum_epochs",
                )

    def epochs(self, samples: int) -> dict[str, float]:
        """How often each source was read by the first ``samples``."""
        consumed = self._mixture.consumed(samples)
        pairs = zip(self.streams, self._sizes, consumed, strict=True)
        return {stream.name: float(count) / max(1, int(size)) for stream, size, count in pairs}

    def locate(self, samples: Indices) -> tuple[Indices, Indices]:
        """Source and sequence of each sample. samples: int64[N]."""
        sources, indices = self._mixture.locate(samples)
        sequences = np.empty_like(samples)
        for source in np.unique(sources):
            here = sources == source
            epochs, ranks = np.divmod(indices[here], self._sizes[source])
            keys = derive_key(self._seed, int(self._stream_keys[source]), epochs)
            sequences[here] = permute(ranks, int(self._sizes[source]), keys) if self._shuffled else ranks
        return sources, sequences

    def read(self, samples: Indices) -> Batch:
        """Tokens, labels and positions of the samples, in their order."""
        sources, sequences = self.locate(samples)
        present = np.unique(sources)
        if present.size == 1:
            stream = self.streams[int(present[0])]
            return read_sequences(stream, sequences, self.sequence_length, document_masking=self._document_masking)
        shape = (samples.size, self.sequence_length)
        batch = Batch(np.empty(shape, np.int64), np.empty(shape, np.int64), np.empty(shape, np.int64))
        for source in present:
            here = sources == source
            part = read_sequences(
                self.streams[source], sequences[here], self.sequence_length, document_masking=self._document_masking
            )
            batch.tokens[here], batch.labels[here], batch.positions[here] = part.tokens, part.labels, part.positions
        return batch


def read_sequences(
    stream: TokenStream | PackedStream, sequences: Indices, length: int, *, document_masking: bool
) -> Batch:
    """Sequences of one stream; without document_masking positions, and so attention, run on across documents."""
    if isinstance(stream, PackedStream):
        tokens, labels, positions = stream.read(sequences)
        across = np.tile(np.arange(length), (len(tokens), 1))
        return Batch(tokens, labels, positions if document_masking else across)
    tokens, positions = stream.gather(sequences, length)
    if not document_masking:
        positions = np.tile(np.arange(length), (len(tokens), 1))
    return Batch(tokens[:, :-1], tokens[:, 1:], positions)


def stripe(cursor: int, global_batch: int, rank: int, ranks: int) -> NDArray[np.int64]:
    """The samples of one step that a rank reads: a contiguous run of the step's global order."""
    local = global_batch // ranks
    begin = cursor + rank * local
    return np.arange(begin, begin + local, dtype=np.int64)
