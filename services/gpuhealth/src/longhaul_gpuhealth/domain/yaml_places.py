"""YAML with the place of every value, so that a fault is reported with its line and column."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a text, counted from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"


class YamlFault(ValueError):  # noqa: N818 (it is a fault of the text)
    """The text is no YAML, or holds one key twice."""


class _Loader(yaml.SafeLoader):
    """Refuses a mapping with one key twice, which plain YAML would let pass."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise YamlFault(f"{_place(key_node)}: {key!r} is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def load(text: str) -> tuple[Any, yaml.Node | None]:
    """The document and its tree of nodes. Raises `YamlFault`."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return (None if node is None else loader.construct_document(node)), node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise YamlFault(f"{where}{error.problem}") from None
    except yaml.YAMLError as error:
        raise YamlFault(str(error)) from None


def locate(root: yaml.Node | None, path: Iterable[str | int]) -> Place:
    """Place of the value at `path`, or of the nearest thing around it; steps that lead nowhere are passed over.

    A key that stands for itself (an unknown one) is located at the key.
    """
    node, place = root, Place(1, 1) if root is None else _place(root)
    for step in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(step)), None)
            if found is not None:
                place, node = _place(found[0]), found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            place = _place(node)
    return place


def _place(node: yaml.Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)
