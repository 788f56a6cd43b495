"""Best-fit packing, stages of the mixture, and shards streamed from an object store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from longhaul_core.errors import DataLoss, FailedPrecondition, InvalidArgument, Unavailable
from longhaul_core.manifests import Part, hash_bytes
from longhaul_core.objects import FilesystemStore
from longhaul_core.recipe import DataConfig, MixtureStage
from longhaul_trainer.data.bounded_cache import BoundedCache
from longhaul_trainer.data.mixture import BLOCK_SAMPLES, Mixture, Stage
from longhaul_trainer.data.packing import PackedStream, pack
from longhaul_trainer.data.samples import SampleOrder
from longhaul_trainer.data.streaming import BoundedFile, StreamedFile
from longhaul_trainer.data.tokens import IGNORED_LABEL, TokenStream

from tests.unit.trainer.test_data import EOS, random_documents, write_shards


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 32), min_size=1, max_size=200))
def test_pieces_are_packed_once_and_never_beyond_the_room(lengths: list[int]) -> None:
    sizes = np.array(lengths)
    bins = pack(sizes, 32)
    loads = [int(sizes[part].sum()) for part in np.split(bins.pieces, bins.ends[:-1])]

    assert sorted(bins.pieces.tolist()) == list(range(len(lengths)))
    assert max(loads) <= 32
    assert sum(load <= 16 for load in loads) <= 1  # two that are half empty would have been one


def test_packed_stream_has_every_token_as_a_label_once_and_cuts_only_what_is_too_long(tmp_path: Path) -> None:
    documents = random_documents(120, 3)
    stream = write_shards(tmp_path, "a", [documents[:50], documents[50:]])
    packed = PackedStream(stream, 24)
    tokens, labels, positions = packed.read(np.arange(packed.sequences(24)))
    everything = np.concatenate(documents)

    learned = labels[labels != IGNORED_LABEL]
    assert sorted(learned.tolist()) == sorted(everything[1:].tolist())
    assert packed.fill > 0.95
    assert (tokens[positions == 0] == EOS).sum() >= 100
    inside = (labels[:, :-1] != IGNORED_LABEL) & (positions[:, 1:] > 0)
    assert (tokens[:, 1:][inside] == labels[:, :-1][inside]).all()


def test_packed_order_is_the_same_for_any_split_into_ranks_and_gives_cu_seqlens(tmp_path: Path) -> None:
    stream = PackedStream(write_shards(tmp_path, "a", [random_documents(200, 5)]), 16)
    order = SampleOrder([stream], [1.0], sequence_length=16, seed=3, document_masking=True)
    whole = order.read(np.arange(12))
    parts = [order.read(np.arange(first, first + 4)) for first in (0, 4, 8)]

    assert np.array_equal(whole.tokens, np.concatenate([part.tokens for part in parts]))
    bounds = whole.cu_seqlens
    assert (bounds[0], bounds[-1]) == (0, 12 * 16)
    assert set(range(0, 12 * 16, 16)) <= set(bounds.tolist())
    assert np.array_equal(np.flatnonzero(whole.positions.reshape(-1) == 0), bounds[:-1])


def test_stages_change_the_shares_over_a_ramp_in_closed_form() -> None:
    block = BLOCK_SAMPLES
    stages = [Stage(4 * block, 4 * block, [0.5, 0.5, 0.0]), Stage(20 * block, 0, [0.0, 0.0, 1.0])]
    mixture = Mixture([1.0, 0.0, 0.0], 9, stages)
    sources, indices = mixture.locate(np.arange(24 * block))
    shares = np.stack([np.bincount(part, minlength=3) / block for part in sources.reshape(24, block)])

    assert (shares[:4, 0] == 1).all()
    assert (np.diff(shares[3:9, 1]) > 0.09).all()
    assert shares[8:20].tolist() == [[0.5, 0.5, 0.0]] * 12
    assert (shares[20:, 2] == 1).all()
    for source in range(3):
        assert indices[sources == source].tolist() == list(range(int((sources == source).sum())))
    for samples in (0, 5, 6 * block + 17, 23 * block):
        assert mixture.consumed(samples).tolist() == np.bincount(sources[:samples], minlength=3).tolist()
    again = Mixture([1.0, 0.0, 0.0], 9, stages)
    assert again.locate(np.array([7 * block + 5]))[0][0] == sources[7 * block + 5]


def test_stage_that_would_run_a_source_out_is_refused(tmp_path: Path) -> None:
    large = write_shards(tmp_path, "large", [random_documents(4000, 1)])
    small = write_shards(tmp_path, "small", [random_documents(50, 2)])
    stages = [Stage(BLOCK_SAMPLES, 0, [0.5, 0.5])]
    order = SampleOrder([large, small], [1.0, 0.0], sequence_length=16, seed=0, document_masking=True, stages=stages)

    order.require_epochs(BLOCK_SAMPLES, 5)
    with pytest.raises(FailedPrecondition, match="Source small would be read"):
        order.require_epochs(2 * BLOCK_SAMPLES, 5)


def test_recipe_refuses_a_stage_inside_the_ramp_before() -> None:
    first = MixtureStage(from_step=10, ramp_steps=10, mixture={"a": 1})
    with pytest.raises(ValueError, match="lies in the ramp"):
        DataConfig(mixture_stages=[first, MixtureStage(from_step=15, mixture={"b": 1})])


class Remote(FilesystemStore):
    """A store without local paths, which counts ranges and gives what a test says instead of bytes."""

    fetched: list[int]
    fault: str = ""

    def local_path(self, key: str) -> Path | None:
        return None

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        self.fetched.append(offset)
        content = super().get_range(key, offset, length)
        if self.fault == "cut":
            return content[:-1]
        if self.fault == "busy":
            raise Unavailable("503")
        return bytes(length) if self.fault == "wrong" else content


def streamed(tmp_path: Path, name: str = "cache") -> tuple[Remote, StreamedFile, TokenStream, TokenStream]:
    documents = random_documents(400, 4)
    plain = write_shards(tmp_path, "a", [documents])
    store = Remote.open(tmp_path / "store")
    store.fetched = []
    content = (tmp_path / "a-0.ds").read_bytes()
    store.put("a.ds", content)
    file = StreamedFile(store, Part(key="a.ds", size=len(content), digest=hash_bytes(content)), tmp_path / name, 4096)
    return store, file, TokenStream("a", [(file, tmp_path / "a-0.ds.index")], "uint16"), plain


def test_streamed_shard_fetches_only_what_is_read_and_keeps_it(tmp_path: Path) -> None:
    store, file, stream, plain = streamed(tmp_path)
    wanted = np.array([2, 3])
    assert np.array_equal(stream.gather(wanted, 16)[0], plain.gather(wanted, 16)[0])
    assert store.fetched == [0]
    every = np.arange(stream.sequences(16))
    assert np.array_equal(stream.gather(every, 16)[0], plain.gather(every, 16)[0])
    blocks = -(-file.size // 4096)
    assert sorted(store.fetched) == [4096 * n for n in range(blocks)]
    again, _, other, _ = streamed(tmp_path)
    assert np.array_equal(other.gather(every, 16)[0], plain.gather(every, 16)[0])
    assert again.fetched == []


@pytest.mark.parametrize(("fault", "error"), [("cut", DataLoss), ("busy", Unavailable), ("wrong", DataLoss)])
def test_streamed_shard_with_a_fault_is_an_error_and_whole_afterwards(
    tmp_path: Path, fault: str, error: type[Exception]
) -> None:
    store, file, stream, plain = streamed(tmp_path)
    every = np.arange(stream.sequences(16))
    store.fault = fault
    with pytest.raises(error):
        stream.gather(every, 16)
    assert store.fetched
    if fault == "wrong":
        assert not file.path.exists()
    store.fault = ""
    _, _, fresh, _ = streamed(tmp_path)
    assert np.array_equal(fresh.gather(every, 16)[0], plain.gather(every, 16)[0])


def bounded(tmp_path: Path, maximum_bytes: int, name: str = "bounded") -> tuple[Remote, BoundedFile, TokenStream]:
    store, file, _, _ = streamed(tmp_path)
    part = file._part
    blocks = BoundedFile(store, part, BoundedCache(tmp_path / name, maximum_bytes, block_bytes=512))
    return store, blocks, TokenStream("a", [(blocks, tmp_path / "a-0.ds.index")], "uint16")


def kept_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def test_bounded_cache_stays_within_its_bound_and_gives_the_same_tokens(tmp_path: Path) -> None:
    store, file, stream = bounded(tmp_path, 8 * 512)
    plain = TokenStream("a", [(tmp_path / "a-0.ds", tmp_path / "a-0.ds.index")], "uint16")
    assert file.size > 3 * 8 * 512
    most = 0
    for sequence in np.random.default_rng(0).permutation(stream.sequences(16)).tolist():
        wanted = np.array([sequence])
        assert np.array_equal(stream.gather(wanted, 16)[0], plain.gather(wanted, 16)[0])
        most = max(most, kept_bytes(tmp_path / "bounded"))
    assert 4 * 512 < most <= 8 * 512
    assert len(store.fetched) > -(-file.size // 512)  # some were fetched again


def test_bounded_cache_keeps_what_was_read_last(tmp_path: Path) -> None:
    store, file, _ = bounded(tmp_path, 8 * 512)
    for block in (0, 1, 2, 3, 4, 0, 5, 0, 6, 0, 7, 0, 8, 0, 9, 0):
        file.cache.read(store, file.part, block * 512, block * 512 + 10)
    assert store.fetched.count(0) == 1
    assert not list((tmp_path / "bounded").glob("*-1.block"))
    again, other, _ = bounded(tmp_path, 8 * 512)  # a worker that starts again
    other.cache.read(again, other.part, 9 * 512, 9 * 512 + 10)
    assert again.fetched == []


def test_bounded_cache_survives_files_that_another_worker_removes_or_left_unfinished(tmp_path: Path) -> None:
    store, _, stream = bounded(tmp_path, 64 * 512)
    every = np.arange(stream.sequences(16))
    whole = stream.gather(every, 16)[0]
    for path in list((tmp_path / "bounded").glob("*.block"))[::2]:
        path.unlink()
    (tmp_path / "bounded/killed.partial").write_bytes(b"half a block")
    assert np.array_equal(stream.gather(every, 16)[0], whole)
    store.fault = "cut"
    next((tmp_path / "bounded").glob("*-0.block")).unlink()
    with pytest.raises(DataLoss, match="gave 511 of 512 bytes at 0"):
        stream.gather(every[:1], 16)


def test_bounded_cache_of_next_to_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as refused:
        BoundedCache(tmp_path, 1 << 20)
    assert refused.value.violations == (("data.cache_bytes", "at least 8388608, or 0 for no bound"),)
