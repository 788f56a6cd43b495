"""Tokenizers side by side as one SVG: bars by source and language, one panel a figure."""

import html
from collections.abc import Mapping, Sequence

from longhaul.corpus.v1.tokenizer_pb2 import TokenizerScore

COLOURS = ("#2563a8", "#d9722a", "#2f8f6b", "#8a5bb0", "#b8902a", "#9aa3ab")
FIGURES = (
    ("fertility", "tokens a word (lower is better)"),
    ("continued_word_proportion", "share of words split in two or more (lower is better)"),
    ("bytes_per_token", "bytes a token (higher is better)"),
)
WIDTH, BAR, GAP, LABEL, HEAD = 760, 13, 12, 170, 34


def tokenizer_plot(scores: Mapping[str, Sequence[TokenizerScore]]) -> str:
    """Return an SVG of the scores of each tokenizer."""
    groups = list(dict.fromkeys(score.source for found in scores.values() for score in found))
    height = HEAD + len(groups) * (len(scores) * BAR + GAP) + GAP
    panels = [_panel(scores, groups, field, title, n * height) for n, (field, title) in enumerate(FIGURES)]
    legend = "".join(
        f'<tspan fill="{_colour(number)}" dx="14">■ {html.escape(name)}</tspan>' for number, name in enumerate(scores)
    )
    total = len(FIGURES) * height + 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" '
        f'font-family="sans-serif" font-size="11">'
        f'<rect width="{WIDTH}" height="{total}" fill="#fff"/>{"".join(panels)}'
        f'<text x="0" y="{total - 10}">{legend}</text></svg>\n'
    )


def _panel(
    scores: Mapping[str, Sequence[TokenizerScore]], groups: Sequence[str], field: str, title: str, top: int
) -> str:
    values = {(name, score.source): float(getattr(score, field)) for name, found in scores.items() for score in found}
    longest = max(values.values(), default=1.0) or 1.0
    parts = [f'<text x="8" y="{top + 22}" font-weight="600" font-size="13">{title}</text>']
    y = top + HEAD
    for group in groups:
        middle = y + len(scores) * BAR / 2 + 4
        parts.append(f'<text x="{LABEL - 8}" y="{middle:.0f}" text-anchor="end">{html.escape(group)}</text>')
        for number, name in enumerate(scores):
            value = values.get((name, group))
            if value is not None:
                width = value / longest * (WIDTH - LABEL - 60)
                parts.append(
                    f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR - 2}" fill="{_colour(number)}"/>'
                    f'<text x="{LABEL + width + 5:.1f}" y="{y + BAR - 4}">{value:.3f}</text>'
                )
            y += BAR
        y += GAP
    return "".join(parts)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
