"""Naming, part lists, lineage and diff."""

import pytest
from longhaul_checkpoint.domain.diff import Change, diff_parts
from longhaul_checkpoint.domain.lineage import RunHead
from longhaul_checkpoint.domain.naming import resource_id, split_resource_id
from longhaul_checkpoint.domain.parts import Part, check_parts
from longhaul_core.errors import FailedPrecondition, InvalidArgument

PREFIX = "projects/p/checkpoints/"
DIGEST = "ab" * 32


def _part(path="model/rank-0.safetensors", key=None, size=8, digest=DIGEST):
    return Part(path, key or f"{PREFIX}r/step-00000001-e1/{path}", size, digest)


def test_resource_id_splits_back():
    assert resource_id("my-step-run", 12, 3) == "my-step-run-step-00000012-e3"
    assert split_resource_id("my-step-run-step-00000012-e3") == ("my-step-run", 12, 3)


@pytest.mark.parametrize("identifier", ["", "r", "step-00000001-e1", "r-step-1-e1", "r-step-00000001-e"])
def test_id_that_is_no_checkpoint_is_refused(identifier):
    with pytest.raises(InvalidArgument):
        split_resource_id(identifier)


@pytest.mark.parametrize(
    ("run", "step", "epoch"), [("r", -1, 1), ("r", 10**8, 1), ("r", 1, 0), ("R", 1, 1), ("r" * 60, 1, 1)]
)
def test_checkpoint_that_cannot_be_named_is_refused(run, step, epoch):
    with pytest.raises(InvalidArgument):
        resource_id(run, step, epoch)


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ([], "parts"),
        ([_part(path="data.pkl")], "parts[0].path"),
        ([_part(path="../x.json")], "parts[0].path"),
        ([_part(path="/x.json")], "parts[0].path"),
        ([_part(), _part(key=PREFIX + "other.json")], "parts[1].path"),
        ([_part(key="projects/q/checkpoints/x.json")], "parts[0].key"),
        ([_part(key=PREFIX + "../q/x.json")], "parts[0].key"),
        ([_part(size=0)], "parts[0].size"),
        ([_part(digest="xyz")], "parts[0].digest"),
    ],
)
def test_parts_that_cannot_be_committed_are_refused_by_field(parts, field):
    with pytest.raises(InvalidArgument) as caught:
        check_parts(parts, shared_prefix=PREFIX)
    assert field in {violation[0] for violation in caught.value.violations}


def _checkpoint(step, epoch):
    return resource_id("r", step, epoch)


def test_older_epoch_is_fenced_and_the_same_registration_repeats():
    head = RunHead("r").register(2)
    assert head.register(2) == head
    with pytest.raises(FailedPrecondition) as caught:
        head.register(1)
    assert caught.value.reason == "STALE_EPOCH"


def test_roll_back_moves_the_head_and_a_plain_restart_does_not():
    head = RunHead("r").register(1).advance(_checkpoint(10, 1)).advance(_checkpoint(20, 1))
    assert head.register(2).checkpoint == _checkpoint(20, 1)
    back = head.register(2, _checkpoint(10, 1))
    assert back.checkpoint == _checkpoint(10, 1)
    assert back.previous_of(2, "") == _checkpoint(10, 1)
    assert back.advance(_checkpoint(15, 2)).checkpoint == _checkpoint(15, 2)


def test_commit_recovered_late_never_moves_the_head():
    head = RunHead("r").register(2).advance(_checkpoint(20, 2))
    assert head.advance(_checkpoint(30, 1)) == head
    assert head.advance(_checkpoint(10, 2)) == head


def test_first_commit_of_an_epoch_follows_the_parent_that_it_names():
    head = RunHead("r").register(1).advance(_checkpoint(20, 1)).register(2)
    assert head.previous_of(2, _checkpoint(10, 1)) == _checkpoint(10, 1)
    assert head.previous_of(2, "") == _checkpoint(20, 1)
    assert head.previous_of(2, resource_id("other-run", 10, 1)) == _checkpoint(20, 1)
    later = head.advance(_checkpoint(15, 2))
    assert later.previous_of(2, _checkpoint(10, 1)) == _checkpoint(15, 2)


def test_diff_names_each_part_once():
    before = [_part("a.json"), _part("b.json"), _part("c.json")]
    after = [_part("b.json"), _part("c.json", digest="cd" * 32), _part("d.json")]
    assert [(d.path, d.change) for d in diff_parts(before, after)] == [
        ("a.json", Change.REMOVED),
        ("b.json", Change.UNCHANGED),
        ("c.json", Change.CHANGED),
        ("d.json", Change.ADDED),
    ]
