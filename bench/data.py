"""Speed and memory of the data services against datatrove and tokenizers, on the same real input in the same run.

Every figure is CPU time (children included) unless it says otherwise; ours and the peer alternate, medians of three.
`bound` is what a perfect implementation would cost on this machine, in the same unit, measured here too.
Usage: python bench/data.py [ROW...]   (rows: extraction filters minhash tokenising loader memory scaling)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from data_inputs import quiet, summary
from data_scale import memory, scaling
from data_text import extraction, filters
from data_tokens import loader, minhash, tokenising

ROWS = {row.__name__: row for row in (extraction, filters, minhash, tokenising, loader, memory, scaling)}


def main(wanted: Sequence[str]) -> None:
    """Measure the wanted rows, or all."""
    quiet()
    for name in wanted or ROWS:
        ROWS[name]()
    print(f"bench-data: {summary()}")


if __name__ == "__main__":
    main(sys.argv[1:])
