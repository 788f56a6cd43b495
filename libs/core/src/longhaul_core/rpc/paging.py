"""Pages of a List: opaque tokens that are bound to the query they came from (AIP-158)."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from longhaul_core.errors import InvalidArgument
from longhaul_core.ids import canonical_json, fingerprint

DEFAULT_PAGE_SIZE = 50
MAXIMUM_PAGE_SIZE = 1000
_QUERY_CHARACTERS = 12


def page_size(requested: int, default: int = DEFAULT_PAGE_SIZE, maximum: int = MAXIMUM_PAGE_SIZE) -> int:
    """Return the size to use: `default` for 0, never above `maximum`.

    Raises:
        InvalidArgument: The requested size is negative.
    """
    if requested < 0:
        raise InvalidArgument(
            f"page_size is {requested}; it must not be negative",
            reason="PAGE_SIZE_INVALID",
            violations=[("page_size", "must not be negative")],
        )
    return min(requested or default, maximum)


def encode_page_token(position: Any, query: Any = None) -> str:
    """Encode where the next page starts.

    Args:
        position: Values of JSON's types.
        query: What the page was asked for; the token is good for the same query only.
    """
    return base64.urlsafe_b64encode(canonical_json([_query_mark(query), position])).decode().rstrip("=")


def decode_page_token(token: str, query: Any = None) -> Any:
    """Return the position in a token, or None for the empty token, which starts at the first page.

    Raises:
        InvalidArgument: The token was not made by `encode_page_token`, or for another query.
    """
    if not token:
        return None
    try:
        mark, position = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (binascii.Error, ValueError, TypeError) as error:
        raise _invalid("it is not a token of this service") from error
    if mark != _query_mark(query):
        raise _invalid("it belongs to another query; parent and filters must stay the same between pages")
    return position


def _query_mark(query: Any) -> str:
    return fingerprint(query)[:_QUERY_CHARACTERS]


def _invalid(why: str) -> InvalidArgument:
    return InvalidArgument(
        f"page_token: {why}",
        reason="PAGE_TOKEN_INVALID",
        violations=[("page_token", why)],
        action="start again without page_token",
    )
