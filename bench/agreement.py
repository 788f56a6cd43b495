"""Decisions of our filters against datatrove's with its default words, on the recorded crawl: differences, counted.

Usage: python bench/agreement.py   (needs bench/requirements.txt)
"""

from __future__ import annotations

import json
from collections import Counter

from data_inputs import quiet, texts
from longhaul_ingest.domain.features import Features
from longhaul_ingest.domain.filters import build_filter, judge


def main() -> None:
    """Print, for each filter, how many documents both decide alike, and each pair of unlike decisions."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    quiet()
    peers = {
        "gopher_repetition": GopherRepetitionFilter(),
        "gopher_quality": GopherQualityFilter(),
        "c4": C4QualityFilter(filter_no_terminal_punct=False),
        "fineweb": FineWebQualityFilter(),
    }
    sample = texts()[::3]
    for name, peer in peers.items():
        chain = [build_filter(name, {})]
        unlike: Counter[str] = Counter()
        same_text = 0
        for text in sample:
            found = judge(chain, Features(text))
            document = Document(text=text, id="")
            answer = peer.filter(document)
            if (found.refused is None) != (answer is True):
                ours = found.refused[0] if found.refused else "kept"
                unlike[f"{ours} / {'kept' if answer is True else answer[1]}"] += 1
            same_text += found.refused is None and answer is True and found.text == document.text
        alike = len(sample) - unlike.total()
        line = {"bench": "agreement with datatrove", "filter": name, "documents": len(sample), "alike": alike}
        print(json.dumps({**line, "unlike (ours / theirs)": dict(unlike), "same_text": same_text}), flush=True)


if __name__ == "__main__":
    main()
