"""Numbers and times in the notations of Kubernetes."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

_FRACTION = re.compile(r"\.(\d{1,6})\d*")


def count(value: Any) -> int:
    """A whole number of devices; extended resources have no fractions. None is 0."""
    text = str(value or 0)
    return int(text) if text.isdecimal() else 0


def timestamp(text: str | None) -> datetime | None:
    """An RFC 3339 time in UTC; Kubernetes writes seconds, and microseconds in some fields."""
    if not text:
        return None
    shortened = _FRACTION.sub(lambda match: f".{match[1]}", text)
    return datetime.fromisoformat(shortened.replace("Z", "+00:00")).astimezone(UTC)
