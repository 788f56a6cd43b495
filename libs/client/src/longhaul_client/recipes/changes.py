"""Changes to a recipe, as `key=value` on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from longhaul_core.errors import InvalidArgument

SHORT_KEYS = {
    "lr": "training.optimizer.learning_rate",
    "optimizer": "training.optimizer.kind",
    "activation": "model.activation",
    "norm": "model.norm",
    "position": "model.position",
    "schedule": "training.schedule.kind",
    "steps": "training.steps",
}
"""Names for what is changed most often; every other key is written in full, from the recipe's top."""


def apply_changes(recipe: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Return the recipe's document with every change made; values are read as YAML.

    Raises:
        InvalidArgument: a change is not of the form key=value, or its key leads through a value.
    """
    document: dict[str, Any] = yaml.safe_load(yaml.safe_dump(dict(recipe)))
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key.strip():
            raise InvalidArgument(f"{change!r} is no change", violations=[("set", "write key=value")])
        _set(document, SHORT_KEYS.get(key.strip(), key.strip()), yaml.safe_load(text), change)
    return document


def _set(document: dict[str, Any], path: str, value: Any, change: str) -> None:
    *sections, last = path.split(".")
    place = document
    for section in sections:
        inner = place.setdefault(section, {})
        if not isinstance(inner, dict):
            raise InvalidArgument(f"{change!r}: {section!r} is a value, not a section", violations=[("set", change)])
        place = inner
    place[last] = value
