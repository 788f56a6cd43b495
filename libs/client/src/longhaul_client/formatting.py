"""Numbers, names and times as the command and the report show them."""

import html
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp


def text(value: object) -> str:
    """Return a value as text that is safe inside HTML."""
    return html.escape(str(value))


def short_name(name: str) -> str:
    """Return the id of a resource name."""
    return name.rpartition("/")[2]


def state_name(name: str, prefix: str) -> str:
    """Return an enum value's name without its prefix, in lower case."""
    return name.removeprefix(prefix).lower().replace("_", " ")


def quantity(value: float) -> str:
    """Return a number with three digits and a suffix: 1.23M."""
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}" if value != int(value) else str(int(value))


def size(count: float) -> str:
    """Return a number of bytes for people."""
    return f"{quantity(count)}B"


def duration(seconds: float) -> str:
    """Return a length of time for people: 0.42s, 8.1s, 3m20s, 2h05m, 4d3h."""
    if seconds < 10:
        return f"{max(0.0, seconds):.2f}s"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600}h"


def age(time: Timestamp) -> str:
    """Return how long ago something was, in whole units."""
    if not time.seconds:
        return "-"
    seconds = (datetime.now(UTC) - time.ToDatetime(tzinfo=UTC)).total_seconds()
    return f"{max(0, round(seconds))}s" if seconds < 60 else duration(seconds)


def clock(time: Timestamp) -> str:
    """Return the time of day of a timestamp."""
    return time.ToDatetime().strftime("%H:%M:%S")
