from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from longhaul_core.errors import DataLoss, FailedPrecondition, InvalidArgument
from longhaul_trainer.data.loader import Loader, Reading
from longhaul_trainer.data.mixture import BLOCK_SAMPLES, Mixture
from longhaul_trainer.data.permutation import derive_key, permute
from longhaul_trainer.data.samples import Batch, SampleOrder, stripe
from longhaul_trainer.data.tokens import TokenStream

EOS = 1


def write_shards(folder: Path, name: str, shards: Sequence[Sequence[Sequence[int]]]) -> TokenStream:
    paths = []
    for number, documents in enumerate(shards):
        tokens, index = folder / f"{name}-{number}.ds", folder / f"{name}-{number}.ds.index"
        np.concatenate([np.array(d, dtype="<u2") for d in documents]).tofile(tokens)
        np.cumsum([len(d) for d in documents]).astype("<u8").tofile(index)
        paths.append((tokens, index))
    return TokenStream(name, paths, "uint16")


def random_documents(count: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[*rng.integers(2, 500, rng.integers(0, 40)).tolist(), EOS] for _ in range(count)]


def order(streams: Sequence[TokenStream], weights: Sequence[float], length: int = 16, seed: int = 7) -> SampleOrder:
    return SampleOrder(streams, weights, sequence_length=length, seed=seed, document_masking=True)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 5000), seed=st.integers(0, 2**40))
def test_permute_of_all_points_is_a_permutation(size: int, seed: int) -> None:
    image = permute(np.arange(size), size, derive_key(seed))
    assert np.array_equal(np.sort(image), np.arange(size))


def test_permute_with_another_key_is_another_order_without_visible_structure() -> None:
    first, second = (permute(np.arange(4096), 4096, derive_key(seed)) for seed in (1, 2))
    assert (first == second).mean() < 0.01
    assert abs(np.corrcoef(np.arange(4096), first)[0, 1]) < 0.05
    assert (np.abs(np.diff(first)) == 1).mean() < 0.01


def test_permute_of_a_key_a_point_equals_one_key_at_a_time() -> None:
    keys = derive_key(3, np.arange(50))
    together = permute(np.full(50, 11), 77, keys)
    assert together.tolist() == [int(permute(np.array([11]), 77, keys[i : i + 1])[0]) for i in range(50)]


@settings(max_examples=30, deadline=None)
@given(weights=st.lists(st.floats(0.001, 10), min_size=1, max_size=6), seed=st.integers(0, 2**31))
def test_mixture_gives_each_source_its_indices_once_in_order_and_its_share(weights: list[float], seed: int) -> None:
    mixture = Mixture(weights, seed)
    samples = 3 * BLOCK_SAMPLES + 1234
    sources, indices = mixture.locate(np.arange(samples))
    counts = mixture.consumed(samples)
    for source, weight in enumerate(weights):
        assert np.array_equal(indices[sources == source], np.arange(counts[source]))
        assert abs(counts[source] / samples - weight / sum(weights)) < 0.02
    assert counts.sum() == samples


def test_mixture_read_in_pieces_equals_mixture_read_at_once() -> None:
    mixture = Mixture([0.7, 0.2, 0.1], 5)
    whole = mixture.locate(np.arange(10_000))
    pieces = [Mixture([0.7, 0.2, 0.1], 5).locate(np.arange(a, a + 100)) for a in range(0, 10_000, 100)]
    assert np.array_equal(whole[0], np.concatenate([sources for sources, _ in pieces]))
    assert np.array_equal(whole[1], np.concatenate([indices for _, indices in pieces]))


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0], [float("nan")]])
def test_mixture_of_impossible_weights_is_refused(weights: list[float]) -> None:
    with pytest.raises(InvalidArgument):
        Mixture(weights, 0)


def test_stream_over_shards_gives_tokens_and_positions_of_a_plain_loop(tmp_path: Path) -> None:
    shards = [random_documents(9, 1), random_documents(1, 2), random_documents(30, 3)]
    stream = write_shards(tmp_path, "web", shards)
    flat = [token for shard in shards for document in shard for token in document]
    length = 8
    tokens, positions = stream.gather(np.arange(stream.sequences(length)), length)
    for row in range(stream.sequences(length)):
        inputs = flat[row * length : row * length + length]
        assert tokens[row].tolist() == flat[row * length : row * length + length + 1]
        expected, position = [], 0
        for place, token in enumerate(inputs):
            position = 0 if place == 0 or token == EOS else position + 1
            expected.append(position)
        assert positions[row].tolist() == expected


def test_stream_with_an_index_of_another_shard_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, "web", [random_documents(9, 1)])
    np.array([5], dtype="<u8").tofile(tmp_path / "web-0.ds.index")
    with pytest.raises(DataLoss, match="web"):
        TokenStream("web", [(tmp_path / "web-0.ds", tmp_path / "web-0.ds.index")], "uint16")


def test_order_reads_every_sequence_once_an_epoch_in_a_fresh_order(tmp_path: Path) -> None:
    stream = write_shards(tmp_path, "web", [random_documents(200, 1)])
    samples = order([stream], [1.0])
    size = stream.sequences(16)
    epochs = [samples.locate(np.arange(size) + epoch * size)[1] for epoch in range(3)]
    for epoch in epochs:
        assert np.array_equal(np.sort(epoch), np.arange(size))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])


def test_order_without_document_masking_lets_positions_run_on(tmp_path: Path) -> None:
    stream = write_shards(tmp_path, "web", [random_documents(200, 1)])
    batch = order([stream], [1.0]).read(np.arange(20))
    plain = SampleOrder([stream], [1.0], sequence_length=16, seed=7, document_masking=False).read(np.arange(20))
    assert np.array_equal(plain.tokens, batch.tokens)
    assert np.array_equal(plain.labels[:, :-1], batch.tokens[:, 1:])
    assert (plain.positions == np.arange(16)).all()
    assert np.array_equal(batch.positions[:, 1:] == 0, batch.tokens[:, 1:] == EOS)


def take(loader: Loader, cursor: int, samples: int) -> Batch:
    return loader.take(Reading(0, cursor, samples), Reading(0, cursor + samples, samples))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_together_read_the_global_order_of_one_rank(tmp_path: Path, ranks: int) -> None:
    streams = [write_shards(tmp_path, name, [random_documents(100, n)]) for n, name in enumerate(("web", "code"))]
    whole = order(streams, [3, 1]).read(np.arange(24))
    loaders = [Loader([order(streams, [3, 1])], rank=rank, ranks=ranks) for rank in range(ranks)]
    steps = [take(loader, cursor, 8).tokens for cursor in (0, 8, 16) for loader in loaders]
    for loader in loaders:
        loader.close()
    assert np.array_equal(np.concatenate(steps), whole.tokens)


def test_loader_started_at_a_cursor_continues_where_another_stopped(tmp_path: Path) -> None:
    stream = write_shards(tmp_path, "web", [random_documents(100, 1)])
    unbroken = Loader([order([stream], [1])], rank=0, ranks=1)
    resumed = Loader([order([stream], [1])], rank=0, ranks=1)
    batches = [take(unbroken, cursor, 4) for cursor in range(0, 24, 4)]
    assert np.array_equal(take(resumed, 20, 4).tokens, batches[5].tokens)
    unbroken.close()
    resumed.close()


def test_loader_refuses_ranks_that_do_not_divide_the_batch(tmp_path: Path) -> None:
    stream = write_shards(tmp_path, "web", [random_documents(50, 1)])
    loader = Loader([order([stream], [1])], rank=0, ranks=3)
    with pytest.raises(InvalidArgument, match="3 ranks"):
        take(loader, 0, 8)
    loader.close()


def test_run_that_needs_more_epochs_than_allowed_is_refused_with_the_source(tmp_path: Path) -> None:
    stream = write_shards(tmp_path, "web", [random_documents(50, 1)])
    samples = order([stream], [1.0])
    size = stream.sequences(16)
    samples.require_epochs(2 * size, 2)
    with pytest.raises(FailedPrecondition, match=r"web would be read 2\.\d+ times"):
        samples.require_epochs(2 * size + 1, 2)


def test_sequence_longer_than_the_source_is_refused(tmp_path: Path) -> None:
    stream = write_shards(tmp_path, "web", [[[5, 6, EOS]]])
    with pytest.raises(FailedPrecondition, match="3 tokens, too few for one sequence of 16") as raised:
        order([stream], [1.0])
    assert raised.value.reason == "SEQUENCE_LONGER_THAN_SOURCE"


def test_stripes_of_all_ranks_cover_the_step() -> None:
    assert np.concatenate([stripe(40, 8, rank, 4) for rank in range(4)]).tolist() == list(range(40, 48))
