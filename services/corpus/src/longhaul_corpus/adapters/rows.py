"""JSON lines in the object store."""

import json
from collections.abc import Iterable
from typing import Any

from longhaul_core.manifests import Part, put_part
from longhaul_core.objects import ObjectStore


def put_rows(store: ObjectStore, key: str, rows: Iterable[dict[str, Any]]) -> Part:
    """Write rows as JSON lines and describe the object."""
    return put_part(store, key, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def read_rows(store: ObjectStore, key: str) -> list[dict[str, Any]]:
    """Read what `put_rows` wrote."""
    return [json.loads(line) for line in store.get(key).splitlines()]
