"""How deep a page is nested, before a parser meets it.

Parsers take time quadratic in the depth (20,000 levels: 5 s; a million: hours), and real pages stay below a hundred.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from longhaul_core.compiled import compiled

MAXIMUM_DEPTH: Final = 1000
SHALLOW: Final = (
    "area base br col embed hr img input link meta param source track wbr "  # no end tag
    "p li dt dd tr td th option thead tbody tfoot colgroup rt rp body head html"  # end tag may be left out
)
NAME_BYTES: Final = 8


def nesting_depth(html: str) -> int:
    """An upper estimate of the depth: start tags less end tags, of elements that need both."""
    data = np.frombuffer(html.encode("utf-8", "surrogatepass"), dtype=np.uint8)
    return int(_depth(data, _NAMES))


def _pack(name: str) -> int:
    return int.from_bytes(name.encode()[:NAME_BYTES], "big")


_NAMES: Final = np.array(sorted(map(_pack, SHALLOW.split())), dtype=np.uint64)


@compiled
def _depth(data: npt.NDArray[np.uint8], shallow: npt.NDArray[np.uint64]) -> int:
    depth = deepest = 0
    size = data.size
    for position in range(size - 1):
        if data[position] != 60:  # <
            continue
        closing = data[position + 1] == 47  # /
        start = position + 2 if closing else position + 1
        name = np.uint64(0)
        end = start
        while end < size and end - start < 8:
            letter = data[end] | 32
            digit = 49 <= data[end] <= 54 and end > start
            if not (97 <= letter <= 122 or digit):
                break
            name = (name << np.uint64(8)) | np.uint64(data[end] if digit else letter)
            end += 1
        if end == start:
            continue
        found = np.searchsorted(shallow, name)
        if found < shallow.size and shallow[found] == name:
            continue
        if closing:
            depth = max(depth - 1, 0)
        else:
            depth += 1
            deepest = max(deepest, depth)
    return deepest
