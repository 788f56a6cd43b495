"""What differs between two specifications, as dotted paths."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

ABSENT = "(absent)"
_VALUE_CHARACTERS = 80


def differences(old: Any, new: Any) -> dict[str, str]:
    """Return `{dotted.path: "old -> new"}` for each leaf that differs; lists are compared by position."""
    return {path or "(all)": f"{_show(a)} -> {_show(b)}" for path, a, b in _walk("", old, new)}


class _Absent:
    pass


_ABSENT = _Absent()


def _walk(path: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _walk(f"{path}.{key}" if path else str(key), old.get(key, _ABSENT), new.get(key, _ABSENT))
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        for index, (left, right) in enumerate(zip(old, new, strict=True)):
            yield from _walk(f"{path}[{index}]", left, right)
    elif old is not new and (old != new or type(old) is not type(new)):
        yield path, old, new


def _show(value: Any) -> str:
    if isinstance(value, _Absent):
        return ABSENT
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= _VALUE_CHARACTERS else text[: _VALUE_CHARACTERS - 1] + "…"
