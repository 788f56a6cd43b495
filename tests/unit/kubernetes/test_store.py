"""The cache's store against a model: lists, events and own answers in any order end in the newest state."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from longhaul_core.cluster.kubernetes.store import Store


@dataclass(frozen=True)
class Item:
    name: str
    uid: str
    version: str

    @property
    def key(self) -> tuple[str, str]:
        return "ns", self.name


@pytest.mark.parametrize("seed", range(30))
def test_store_converges_whatever_the_order_of_arrival(seed: int) -> None:
    """One history, delivered in order by the watch, with answers to own writes and stale lists in between."""
    chance = random.Random(seed)
    store: Store[Item] = Store()
    truth: dict[str, Item] = {}
    history: list[tuple[str, Item]] = []
    snapshots: list[tuple[int, int, list[Item]]] = []
    for version in range(1, 120):
        name = chance.choice("abc")
        present = truth.get(name)
        if present is not None and chance.random() < 0.3:
            del truth[name]
            change = ("DELETED", Item(name, present.uid, str(version)))
        else:
            item = Item(name, present.uid if present else f"{name}{version}", str(version))
            truth[name] = item
            change = ("MODIFIED", item)
        history.append(change)
        snapshots.append((version, len(history), list(truth.values())))
        if chance.random() < 0.3:
            _answer(store, *change)
    delivered = 0
    while delivered < len(history):
        if chance.random() < 0.1:
            version, delivered_then, items = chance.choice(snapshots[delivered:])
            store.replace(items, str(version))
            delivered = delivered_then
        else:
            type_, item = history[delivered]
            store.remove(item.key, item.uid) if type_ == "DELETED" else store.put(item)
            delivered += 1
    assert {item.name: item.uid for item in store} == {name: item.uid for name, item in truth.items()}


def test_store_forgets_what_an_own_delete_removed_although_old_events_arrive() -> None:
    store: Store[Item] = Store()
    store.put(Item("p", "u1", "5"))
    assert store.forget(("ns", "p"), "u1")
    assert not store.put(Item("p", "u1", "6"))
    assert store.put(Item("p", "u2", "8"))
    assert not store.remove(("ns", "p"), "u1")
    assert [item.uid for item in store] == ["u2"]


def test_store_replaced_keeps_writes_newer_than_the_list_and_other_namespaces() -> None:
    store: Store[Item] = Store()
    store.put(Item("old", "u1", "5"))
    store.put(Item("new", "u2", "20"))
    store.replace([], "10", within="other")
    assert len(store) == 2
    store.replace([], "10")
    assert [item.name for item in store] == ["new"]


def _answer(store: Store[Item], type_: str, item: Item) -> None:
    store.forget(item.key, item.uid) if type_ == "DELETED" else store.put(item)
