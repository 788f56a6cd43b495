"""C4, FineWeb and repeated lines, with a text on each side of every threshold."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from longhaul_ingest.domain.features import Features
from longhaul_ingest.domain.filters import judge
from longhaul_ingest.domain.web import C4, FineWeb, LineDeduplication

from tests.unit.ingest.test_gopher_rules import prose

SENTENCE = "The boats of the harbour sail out before the sun is up."


def sentences(count: int) -> str:
    return "\n".join(f"{SENTENCE[:-1]} {number}." for number in range(count))


def refused(chain: C4 | FineWeb, text: str) -> list[str]:
    return [rule for rule, _ in judge([chain], Features(text), everything=True).notes if not rule.endswith(".rewrite")]


def kept(chain: C4 | LineDeduplication, text: str) -> list[str]:
    return judge([chain], Features(text), everything=True).text.splitlines()


def c4_cases() -> Iterator[tuple[str, str, str]]:
    yield "min_sentences", sentences(5), sentences(4)
    yield "min_sentences", " ".join([SENTENCE] * 5), " ".join([SENTENCE] * 4)
    yield "lorem_ipsum", sentences(5), sentences(5) + "\nLorem Ipsum dolor sit amet."
    yield "curly_bracket", sentences(5) + "\na {", sentences(5) + "\nif (a) {"


@pytest.mark.parametrize(("rule", "accepted", "refusing"), list(c4_cases()))
def test_c4_rule_on_each_side(rule: str, accepted: str, refusing: str) -> None:
    assert refused(C4(), accepted) == []
    assert refused(C4(), refusing) == [f"c4.{rule}"]


@pytest.mark.parametrize(
    ("stays", "goes"),
    [
        ("three short words", "two words"),
        (f"a long {'w' * 1000}", f"a long {'w' * 1001}"),
        ("we use no script here", "please enable JavaScript to go on"),
        ("we bake biscuits here", "this site uses cookies to follow you"),
    ],
)
def test_c4_line_on_each_side(stays: str, goes: str) -> None:
    assert kept(C4(), f"{sentences(5)}\n{stays}") == [*sentences(5).splitlines(), stays]
    assert kept(C4(), f"{sentences(5)}\n{goes}") == sentences(5).splitlines()


def test_c4_with_terminal_punctuation_takes_out_other_lines_and_ellipses() -> None:
    text = f"{sentences(5)}\nno full stop here\nit goes on...\nhe said 'so it is'"

    assert kept(C4(terminal_punctuation=True), text) == [*sentences(5).splitlines(), "he said 'so it is'"]


def test_c4_takes_citations_out() -> None:
    assert kept(C4(), f"{sentences(5)}\nA fact[12] that is known[citation needed].")[-1] == "A fact that is known."


def fineweb_cases() -> Iterator[tuple[str, str, str]]:
    long = [prose(10) for _ in range(100)]

    def ended(count: int) -> str:
        return "\n".join(line + ("." if number < count else "") for number, line in enumerate(long))

    yield "min_punctuated_line_fraction", ended(12), ended(11)
    short = [f"{prose(4)[:29]}." for _ in range(100)]

    def shortened(count: int) -> str:
        return "\n".join([*short[:count], *(f"{line}." for line in long[count:])])

    yield "max_short_line_fraction", shortened(67), shortened(68)
    base = "\n".join(f"{line}." for line in long)
    twice = "x" * round(0.0099 * len(base)) + "."
    more = "x" * round(0.0115 * len(base)) + "."
    yield "max_duplicate_character_fraction", f"{base}\n{twice}\n{twice}", f"{base}\n{more}\n{more}"
    rows = [f"{word * 40}." for word in "abc"]
    yield "empty", "a", " \n\t"
    yield "max_newlines_per_word", "\n".join([*rows, " ".join(["word"] * 7) + "."]), "\n".join([*rows, "w " * 6 + "."])


@pytest.mark.parametrize(("rule", "accepted", "refusing"), list(fineweb_cases()))
def test_fineweb_rule_on_each_side(rule: str, accepted: str, refusing: str) -> None:
    assert f"fineweb.{rule}" not in refused(FineWeb(), accepted)
    assert f"fineweb.{rule}" in refused(FineWeb(), refusing)


def test_repeated_lines_go_and_short_ones_stay() -> None:
    line, short = "a line that is long enough to count", "yes"

    assert kept(LineDeduplication(), "\n".join([line, short, line, short, "another line that is long"])) == [
        line, short, short, "another line that is long",
    ]  # fmt: skip
    assert kept(LineDeduplication(), f"{'a' * 19}\n{'a' * 19}\n{'b' * 20}\n{'b' * 20}") == [
        "a" * 19, "a" * 19, "b" * 20,
    ]  # fmt: skip


def test_annotating_records_every_rule_and_changes_nothing() -> None:
    text = "if (a) {\nuse cookies here now"
    found = judge([C4(), FineWeb()], Features(text), everything=True)

    assert [rule for rule, _ in found.notes] == [
        "c4.rewrite", "c4.curly_bracket", "c4.min_sentences", "fineweb.min_punctuated_line_fraction",
        "fineweb.max_short_line_fraction",
    ]  # fmt: skip
    assert found.refused is not None
    assert found.refused[0] == "c4.curly_bracket"
