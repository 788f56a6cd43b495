"""Which keys and prefixes an object store accepts, the same on every store."""

from longhaul_core.errors import InvalidArgument

MAXIMUM_KEY_BYTES = 1024  # the limit of S3
MAXIMUM_SEGMENT_BYTES = 255  # the limit of ext4 and xfs on one name


def check_key(key: str) -> str:
    """Return `key`, or raise InvalidArgument: segments divided by single slashes, none hidden, empty or too long."""
    problem = _problem(key)
    if problem:
        raise InvalidArgument(
            f"Object key {key!r} {problem}.",
            reason="INVALID_OBJECT_KEY",
            metadata={"key": key[:200]},
            violations=[("key", problem)],
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix`, or raise InvalidArgument: the beginning of a valid key, or empty."""
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


def _problem(key: str) -> str:
    if not key:
        return "is empty"
    if len(key.encode("utf-8", "replace")) > MAXIMUM_KEY_BYTES:
        return f"is longer than {MAXIMUM_KEY_BYTES} bytes"
    if any(character < " " or character in "\x7f\\" or "\ud800" <= character <= "\udfff" for character in key):
        return "has a control character, a surrogate or a backslash"
    for segment in key.split("/"):
        if not segment:
            return "has an empty segment (leading, trailing or double slash)"
        if segment.startswith("."):
            return "has a segment that begins with a dot"
        if len(segment.encode()) > MAXIMUM_SEGMENT_BYTES:
            return f"has a segment longer than {MAXIMUM_SEGMENT_BYTES} bytes"
    return ""
