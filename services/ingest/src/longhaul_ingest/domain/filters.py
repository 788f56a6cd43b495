"""The chain of filters that a recipe asks for: built from names and parameters, checked before any work begins."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Final, Protocol

from longhaul_core.errors import InvalidArgument

from longhaul_ingest.domain.gopher import GopherQuality, GopherRepetition, Refusal

if TYPE_CHECKING:
    from longhaul_ingest.domain.features import Features

Parameter = float | int | bool | str | list[str] | None


class Filter(Protocol):
    """A set of rules over one text."""

    @property
    def name(self) -> str:
        """The name by which recipes ask for it."""
        ...

    def refusals(self, text: Features) -> Iterator[Refusal]:
        """The rules that the text does not meet, lazily and in a fixed order."""
        ...


FILTERS: Final = {kind.name: kind for kind in (GopherRepetition, GopherQuality)}


def build_filter(name: str, parameters: Mapping[str, Parameter], field: str = "filters") -> Filter:
    """Make one filter; a parameter of `false` or null turns its rule off.

    Raises:
        InvalidArgument: the name or a parameter is unknown (the nearest known one is named), or a value is no number.
    """
    kind = FILTERS.get(name)
    if kind is None:
        raise _unknown(f"{field}.name", "filter", name, sorted(FILTERS))
    known = {item.name for item in fields(kind)}
    values: dict[str, object] = {}
    for key, value in parameters.items():
        path = f"{field}.parameters.{key}"
        if key not in known:
            raise _unknown(path, f"parameter of {name}", key, sorted(known))
        values[key] = _checked(path, key, value)
    return kind(**values)  # type: ignore[arg-type]  # names and types were checked above


def first_refusal(chain: Sequence[Filter], text: Features) -> tuple[str, Refusal] | None:
    """The first rule that refuses the text, as (`filter.rule`, refusal); None: it is accepted."""
    for item in chain:
        for refusal in item.refusals(text):
            return f"{item.name}.{refusal.rule}", refusal
    return None


def _checked(path: str, key: str, value: Parameter) -> object:
    if key == "stop_words":
        if isinstance(value, list) and all(isinstance(word, str) and word for word in value):
            return tuple(value)
        raise _invalid(path, f"{value!r} is no list of words")
    if value is None or value is False:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise _invalid(path, f"{value!r} is no threshold: a number of 0 or more, or false for off")
    return value


def _unknown(path: str, what: str, name: str, known: Sequence[str]) -> InvalidArgument:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return _invalid(path, f"unknown {what} {name!r}; {hint}")


def _invalid(path: str, description: str) -> InvalidArgument:
    return InvalidArgument(f"{path}: {description}", reason="FILTER_INVALID", violations=[(path, description)])
