from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from longhaul.training.v1 import agent_pb2
from longhaul_core.errors import DataLoss, FailedPrecondition, InvalidArgument, Unavailable
from longhaul_core.manifests import Manifest, Part, put_part
from longhaul_core.metric_journal import JournalSpan, journal_prefix
from longhaul_core.objects import ObjectStore, open_store
from longhaul_core.objects.filesystem import FilesystemStore
from longhaul_core.recipe import TrainerConfig
from longhaul_trainer.checkpoint import part_stream
from longhaul_trainer.checkpoint.catalogue import Commit, Reservation
from longhaul_trainer.checkpoint.journal import MetricJournal
from longhaul_trainer.checkpoint.part_file import PartImage
from longhaul_trainer.checkpoint.part_header import header_length, parse_header
from longhaul_trainer.checkpoint.part_set import PartSet
from longhaul_trainer.checkpoint.patience import GaveUp, Patience
from longhaul_trainer.checkpoint.receipts import Receipts
from longhaul_trainer.checkpoint.restore import MODEL_PART, part_file_name, read_trainer_state, restore_slices
from longhaul_trainer.checkpoint.saver import Saved, Saver
from longhaul_trainer.checkpoint.slices import TensorSlice
from longhaul_trainer.checkpoint.trainer_state import Lineage, RandomState, TrainerState
from longhaul_trainer.wire import StepRow
from safetensors.torch import load
from torch.distributed import HashStore

PREFIX = "projects/lab/checkpoints/run/step-00000004-e1"


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(f"file://{tmp_path / 'objects'}")


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "wide": torch.randn(7, 5, generator=generator),
        "gain": torch.randn(6, generator=generator),
        "step": torch.tensor(4.0),
    }


def slices_of(values: dict[str, torch.Tensor], rank: int, ranks: int) -> list[TensorSlice]:
    """Rows as FSDP cuts them: chunks of equal size, the last ones shorter or empty."""
    found = []
    for name, value in values.items():
        if value.dim() == 0:
            found.append(TensorSlice(name, value, (), ()))
            continue
        size = -(-len(value) // ranks)
        begin, end = min(rank * size, len(value)), min((rank + 1) * size, len(value))
        found.append(
            TensorSlice(name, value[begin:end].clone(), tuple(value.shape), (begin,) + (0,) * (value.dim() - 1))
        )
    return found


def empty_like(slices: Sequence[TensorSlice]) -> list[TensorSlice]:
    return [TensorSlice(s.name, torch.full_like(s.local, -1), s.shape, s.offsets) for s in slices]


def save(store: ObjectStore, ranks: int) -> Manifest:
    parts = []
    for rank in range(ranks):
        image = PartImage(part_file_name(MODEL_PART, rank, ranks), slices_of(tensors(), rank, ranks))
        image.fill()
        parts.append(put_part(store, f"{PREFIX}/{image.name}", image.data))
    return manifest_of(parts)


def manifest_of(parts: Sequence[Part]) -> Manifest:
    return Manifest(kind="Checkpoint", name="c", uid="c", created=datetime(2026, 1, 1, tzinfo=UTC), parts=parts)


def test_part_is_a_safetensors_file_of_this_ranks_rows() -> None:
    slices = slices_of(tensors(), 1, 2)
    image = PartImage("model", slices)
    image.fill()
    read = load(bytes(image.data))
    assert {name: value.shape for name, value in read.items()} == {s.name: s.local.shape for s in slices}
    assert all(torch.equal(read[s.name], s.local) for s in slices)
    data = bytes(image.data)
    length = header_length("model", data[:8], len(data))
    stored = {box.name: box for box in parse_header("model", data[8 : 8 + length], len(data))}
    assert stored["wide"].shape == (7, 5)
    assert stored["wide"].offsets == (4, 0)


def test_part_filled_again_holds_the_new_values() -> None:
    local = torch.zeros(3, 2)
    image = PartImage("model", [TensorSlice("w", local, (3, 2), (0, 0))])
    image.fill()
    local += 5
    assert load(bytes(image.data))["w"].sum() == 0
    image.fill()
    assert load(bytes(image.data))["w"].sum() == 30


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 2), (2, 1), (2, 3), (3, 2), (4, 1), (1, 8)])
def test_restore_gives_every_layout_its_rows_of_any_other(store: ObjectStore, before: int, after: int) -> None:
    manifest = save(store, before)
    for rank in range(after):
        wanted = slices_of(tensors(), rank, after)
        targets = empty_like(wanted)
        restore_slices(store, manifest, MODEL_PART, targets)
        for target, source in zip(targets, wanted, strict=True):
            assert torch.equal(target.local, source.local), target.name


def test_restore_of_the_same_layout_reads_its_own_part_only(store: ObjectStore) -> None:
    manifest = save(store, 3)
    name = part_file_name(MODEL_PART, 1, 3)
    targets = empty_like(slices_of(tensors(), 1, 3))
    read = restore_slices(store, manifest, MODEL_PART, targets, prefer=name)
    assert read == {"store": next(part.size for part in manifest.parts if part.key.endswith(name))}


def columns(count: int) -> list[TensorSlice]:
    """The tensors cut into columns, as tensor parallelism cuts; the odd one of them lies scattered in memory."""
    wide = tensors()["wide"]
    held = []
    for begin in range(0, 5, -(-5 // count)):
        own = wide[:, begin : begin + -(-5 // count)]
        local = own.clone() if begin else torch.zeros(7, 9)[:, 2 : 2 + own.shape[1]].copy_(own)
        held.append(TensorSlice("wide", local, (7, 5), (0, begin)))
    return held


def blocks(first_row: int, first_column: int) -> TensorSlice:
    own = tensors()["wide"][first_row : first_row + 3, first_column : first_column + 2]
    return TensorSlice("wide", own.clone(), (7, 5), (first_row, first_column))


@pytest.mark.parametrize("block_bytes", [8, 24, 1 << 20])
@pytest.mark.parametrize("before", [1, 2, 3])
def test_restore_gives_columns_and_boxes_whatever_the_size_of_the_blocks_read(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, before: int, block_bytes: int
) -> None:
    monkeypatch.setattr(part_stream, "_BLOCK_BYTES", block_bytes)
    manifest = save(store, before)
    for wanted in [*columns(1), *columns(2), *columns(5), blocks(1, 1), blocks(4, 3), blocks(0, 0)]:
        (target,) = empty_like([wanted])
        restore_slices(store, manifest, MODEL_PART, [target])
        assert torch.equal(target.local, wanted.local), (wanted.offsets, wanted.local.shape)
    for wanted in slices_of(tensors(), 1, 3):
        (target,) = empty_like([wanted])
        restore_slices(store, manifest, MODEL_PART, [target])
        assert torch.equal(target.local, wanted.local), wanted.name


def test_restore_of_columns_saved_as_columns_gives_whole_rows(store: ObjectStore) -> None:
    parts = []
    for rank, held in enumerate(columns(2)):
        image = PartImage(part_file_name(MODEL_PART, rank, 2), [held])
        image.fill()
        parts.append(put_part(store, f"{PREFIX}/{image.name}", image.data))
    targets = empty_like(slices_of({"wide": tensors()["wide"]}, 1, 3))
    restore_slices(store, manifest_of(parts), MODEL_PART, targets)
    assert torch.equal(targets[0].local, slices_of(tensors(), 1, 3)[0].local)


class HurtOnTheWay(FilesystemStore):
    """One byte of the first block of tensors is another, so many times; the object is whole."""

    times = 0

    def read_into(self, key: str, offset: int, buffer: memoryview) -> int:
        count = super().read_into(key, offset, buffer)
        if offset > 8 and self.times:
            self.times -= 1
            buffer[count - 1] ^= 1
        return count


@pytest.mark.parametrize("hurt", ["once", "always"])
def test_part_that_was_hurt_on_its_way_is_read_once_more(tmp_path: Path, hurt: str) -> None:
    store = HurtOnTheWay.open(tmp_path / "objects")
    manifest = save(store, 1)
    targets = empty_like(slices_of(tensors(), 0, 1))
    store.times = 1 if hurt == "once" else 100
    if hurt == "always":
        with pytest.raises(DataLoss) as raised:
            restore_slices(store, manifest, MODEL_PART, targets)
        assert raised.value.reason == "PART_DIGEST_DIFFERS"
        return
    restore_slices(store, manifest, MODEL_PART, targets)
    assert store.times == 0
    assert all(torch.equal(t.local, s.local) for t, s in zip(targets, slices_of(tensors(), 0, 1), strict=True))


def damage_bit(store: ObjectStore, manifest: Manifest) -> Manifest:
    data = bytearray(store.get(manifest.parts[1].key))
    data[-3] ^= 1
    store.put(manifest.parts[1].key, bytes(data))
    return manifest


def damage_length(store: ObjectStore, manifest: Manifest) -> Manifest:
    store.put(manifest.parts[1].key, store.get(manifest.parts[1].key)[:-8])
    return manifest


def damage_missing(store: ObjectStore, manifest: Manifest) -> Manifest:
    store.delete(manifest.parts[1].key)
    return manifest


def damage_swapped(store: ObjectStore, manifest: Manifest) -> Manifest:
    first, second = manifest.parts
    one, two = store.get(first.key), store.get(second.key)
    store.put(first.key, two)
    store.put(second.key, one)
    return manifest


def damage_unlisted(store: ObjectStore, manifest: Manifest) -> Manifest:
    return manifest_of(manifest.parts[:1])


def damage_header(store: ObjectStore, manifest: Manifest) -> Manifest:
    data = b"\xff" * 8 + store.get(manifest.parts[1].key)[8:]
    return manifest_of([manifest.parts[0], put_part(store, manifest.parts[1].key, data)])


def damage_edited_header(store: ObjectStore, manifest: Manifest) -> Manifest:
    """Another tensor's name in the header, the digest that of before."""
    key = manifest.parts[1].key
    store.put(key, store.get(key).replace(b"wide", b"vast"))
    return manifest


def damage_absurd_sizes(store: ObjectStore, manifest: Manifest) -> Manifest:
    """Offsets beyond the file, with a digest that is right."""
    key = manifest.parts[1].key
    data = store.get(key)
    end = data.index(b'"data_offsets":[') + len(b'"data_offsets":[')
    return manifest_of([manifest.parts[0], put_part(store, key, data[:end] + b"9" + data[end + 1 :])])


def damage_whole_shape(store: ObjectStore, manifest: Manifest) -> Manifest:
    """A box that begins beyond its tensor, with a digest that is right."""
    key = manifest.parts[1].key
    data = store.get(key).replace(b'\\"offsets\\": [4, 0]', b'\\"offsets\\": [9, 0]')
    assert data != store.get(key)
    return manifest_of([manifest.parts[0], put_part(store, key, data)])


def damage_extra(store: ObjectStore, manifest: Manifest) -> Manifest:
    first, second = manifest.parts
    extra = put_part(store, first.key.replace("00000-of", "00000-off"), store.get(first.key))
    return manifest_of([first, extra, second])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_extra, "PARTS_OVERLAP"),
        (damage_bit, "PART_DIGEST_DIFFERS"),
        (damage_length, "PART_SIZE_DIFFERS"),
        (damage_missing, "PART_MISSING"),
        (damage_swapped, "PART_SIZE_DIFFERS"),
        (damage_unlisted, "CHECKPOINT_INCOMPLETE"),
        (damage_header, "PART_MALFORMED"),
        (damage_edited_header, "PART_DIGEST_DIFFERS"),
        (damage_absurd_sizes, "PART_MALFORMED"),
        (damage_whole_shape, "PART_MALFORMED"),
    ],
)
def test_restore_of_a_damaged_checkpoint_is_refused(
    store: ObjectStore, damage: Callable[[ObjectStore, Manifest], Manifest], reason: str
) -> None:
    manifest = damage(store, save(store, 2))
    with pytest.raises(DataLoss) as raised:
        restore_slices(store, manifest, MODEL_PART, empty_like(slices_of(tensors(), 0, 1)))
    assert raised.value.reason == reason


def test_restore_into_another_model_is_refused_with_the_parameter(store: ObjectStore) -> None:
    manifest = save(store, 1)
    with pytest.raises(DataLoss, match="wide") as raised:
        restore_slices(store, manifest, MODEL_PART, [TensorSlice("wide", torch.zeros(7, 6), (7, 6), (0, 0))])
    assert raised.value.reason == "CHECKPOINT_OF_ANOTHER_MODEL"


class Listener:
    def __init__(self) -> None:
        self.committed: list[Saved] = []
        self.delayed: list[Exception] = []
        self.failed: list[Exception] = []

    def checkpoint_committed(self, saved: Saved) -> None:
        self.committed.append(saved)

    def checkpoint_delayed(self, step: int, error: Exception) -> None:
        self.delayed.append(error)

    def checkpoint_failed(self, step: int, error: Exception) -> None:
        self.failed.append(error)


class Catalogue:
    """Commits in memory; can refuse, or wait until it is let go."""

    def __init__(self, failures: Sequence[Exception] = ()) -> None:
        self.failures = list(failures)
        self.commits: list[Commit] = []
        self.gate = threading.Event()
        self.gate.set()

    def begin(self, step: int, epoch: int, world_size: int) -> Reservation:
        self.gate.wait(30)
        if self.failures:
            raise self.failures.pop(0)
        return Reservation(f"checkpoint-{step}", f"{PREFIX}/")

    def commit(self, commit: Commit) -> None:
        self.commits.append(commit)

    def report_damage(self, name: str) -> None:
        raise AssertionError(name)


def step_row(step: int, position: int = 0) -> StepRow:
    return StepRow(
        step=step,
        position=position or step,
        time=1.7e9 + step,
        loss=1.0 / step,
        learning_rate=0.1,
        gradient_norm=1.0,
        tokens=step * 8,
        tokens_per_second=1.0,
        step_seconds=1.0,
        data_wait_seconds=0.0,
        checkpoint_stall_seconds=0.0,
    )


def trainer_state(step: int = 4) -> TrainerState:
    lineage = Lineage(
        config_digest="c",
        token_set="t",
        token_set_digest="d",
        tokenizer_key="",
        tokenizer_digest="",
        eos_id=0,
        code_version="v",
        torch_version="2",
        world_size=2,
        threads_per_worker=1,
        device="cpu",
    )
    return TrainerState(
        step=step,
        sample_cursor=32,
        tokens=1024,
        epoch=1,
        random=RandomState(seed=0),
        source_epochs={"web": 0.5},
        loss=2.5,
        lineage=lineage,
        shape={},
        config=TrainerConfig(),
    )


def make_saver(
    store: ObjectStore, listener: Listener, rank: int, ranks: int, receipts: HashStore, **options: Any
) -> Saver:
    slices = slices_of(tensors(), rank, ranks)
    sets = [PartSet(MODEL_PART, slices, rank=rank, ranks=ranks)]
    return Saver(sets, store, Receipts(receipts), listener, rank=rank, ranks=ranks, **options)


def test_rows_are_in_the_journal_before_the_checkpoint_is_committed(store: ObjectStore) -> None:
    """Also when the store refuses the first try; rows of later steps wait for their own checkpoint."""
    catalogue, listener = Catalogue(), Listener()
    journal = MetricJournal(store, "p", "r", 3)
    order: list[int] = []

    def write(step: int) -> None:
        order.append(len(catalogue.commits))
        if len(order) == 1:
            raise OSError("no room")
        journal.write(step)

    saver = make_saver(store, listener, 0, 1, HashStore(), catalogue=catalogue, before_commit=write)
    state = trainer_state()
    for step in range(state.step - 2, state.step + 2):
        journal.add(step_row(step))
    saver.start(state)
    assert saver.finish(30)
    assert order == [0, 0]
    (info,) = store.list(journal_prefix("p", "r"))
    assert JournalSpan.parse(info.key) == JournalSpan(state.step - 2, state.step, 3)
    rows = agent_pb2.StepMetricsBatch.FromString(store.get(info.key)).rows
    assert [(row.step, row.epoch, row.loss) for row in rows] == [
        (step, 3, 1.0 / step) for step in range(state.step - 2, state.step + 1)
    ]


def test_journal_holds_the_rows_of_steps_that_were_made_again_after_a_rewind(store: ObjectStore) -> None:
    """Steps 1 to 6, back to 3 (positions go on), 4 and 5 again: a save at each checkpoint leaves no row out."""
    journal = MetricJournal(store, "p", "r", 2)
    for step in range(1, 7):
        journal.add(step_row(step))
    journal.write(3)
    journal.write(7)
    for step, position in ((4, 8), (5, 9), (6, 10)):
        journal.add(step_row(step, position))
    journal.write(9)
    spans = sorted((JournalSpan.parse(info.key), info.key) for info in store.list(journal_prefix("p", "r")))
    written = [
        [(row.step, row.position) for row in agent_pb2.StepMetricsBatch.FromString(store.get(key)).rows]
        for _, key in spans
    ]
    assert written == [[(1, 1), (2, 2), (3, 3)], [(4, 4), (5, 5), (6, 6)], [(4, 8), (5, 9)]]


def test_saver_of_two_ranks_commits_all_parts_once(store: ObjectStore) -> None:
    catalogue, listener, shared = Catalogue(), Listener(), HashStore()
    savers = [
        make_saver(store, listener, rank, 2, shared, catalogue=catalogue if rank == 0 else None) for rank in range(2)
    ]
    for saver in savers:
        saver.start(trainer_state())
    assert all(saver.finish(30) for saver in savers)
    (commit,) = catalogue.commits
    assert sorted(part.key.rsplit("/", 1)[-1] for part in commit.parts) == [
        "model-00000-of-00002.safetensors",
        "model-00001-of-00002.safetensors",
        "trainer_state.json",
    ]
    assert commit.metrics == {"loss": 2.5}
    assert read_trainer_state(store, manifest_of(commit.parts)) == trainer_state()
    assert [saved.name for saved in listener.committed] == ["checkpoint-4"]
    for saver in savers:
        saver.close()


def test_saver_lets_training_go_on_while_the_service_is_away(store: ObjectStore) -> None:
    catalogue, listener = Catalogue([Unavailable("away"), OSError("disk")]), Listener()
    catalogue.gate.clear()
    saver = make_saver(store, listener, 0, 1, HashStore(), catalogue=catalogue)
    saver.start(trainer_state())
    assert saver.join_staging() < 5
    assert saver.busy
    assert not saver.finish(0.05)
    catalogue.gate.set()
    assert saver.finish(30)
    assert not saver.busy
    assert len(listener.delayed) == 1
    assert len(catalogue.commits) == 1
    saver.close()


def test_saver_of_a_fenced_epoch_gives_up_at_once(store: ObjectStore) -> None:
    stale = FailedPrecondition("epoch 2 has taken over", reason="STALE_EPOCH")
    listener = Listener()
    saver = make_saver(store, listener, 0, 1, HashStore(), catalogue=Catalogue([stale]))
    saver.start(trainer_state())
    assert not saver.finish(30)
    assert saver.superseded
    assert listener.failed == [stale]
    saver.close()


def test_saver_gives_up_after_its_deadline_and_can_save_again(store: ObjectStore) -> None:
    catalogue, listener = Catalogue([Unavailable("away")] * 3), Listener()
    saver = make_saver(store, listener, 0, 1, HashStore(), catalogue=catalogue, upload_seconds=0.0)
    saver.start(trainer_state())
    assert not saver.finish(30)
    assert isinstance(listener.failed[0], GaveUp)
    catalogue.failures.clear()
    saver.start(trainer_state(5))
    assert saver.finish(30)
    saver.close()


def test_patience_repeats_what_may_heal_and_nothing_else() -> None:
    delays: list[Exception] = []
    patience = Patience(time.monotonic() + 30, threading.Event(), delays.append)
    answers = iter([Unavailable("away"), OSError("disk"), "done"])

    def act() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patience.persist(act) == "done"
    assert len(delays) == 2

    def refuse() -> str:
        raise InvalidArgument("never")

    with pytest.raises(InvalidArgument):
        patience.persist(refuse)
