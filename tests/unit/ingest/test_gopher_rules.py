"""Every Gopher rule with a text on each side of its threshold."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from longhaul_core.errors import InvalidArgument
from longhaul_ingest.domain.features import Features
from longhaul_ingest.domain.filters import build_filter, first_refusal
from longhaul_ingest.domain.gopher import GopherQuality, GopherRepetition

_fresh = count()


def words(number: int, length: int = 5) -> Iterator[str]:
    """Different words of one length."""
    for _ in range(number):
        digits, value = "", next(_fresh)
        while len(digits) < length:
            value, letter = divmod(value, 26)
            digits += chr(ord("a") + letter)
        yield digits


def prose(number: int, length: int = 5, stops: str = "the of ") -> str:
    """Text of `number` words with two stop words among them."""
    return stops + " ".join(words(number - len(stops.split()), length))


def lines(number: int, prefix: str = "", suffix: str = "") -> list[str]:
    """Different lines of eight words."""
    return [f"{prefix}{prose(8)}{suffix}" for _ in range(number)]


def quality_cases() -> Iterator[tuple[str, str, str]]:
    """(rule, text that it accepts, text that it refuses)."""
    yield "min_words", prose(50), prose(49)
    yield "max_words", " ".join(["the of", *["word"] * 99_998]), " ".join(["the of", *["word"] * 99_999])
    yield "min_mean_word_length", " ".join(["the"] * 30 + ["and"] * 30), " ".join(["the"] * 30 + ["of"] * 30)
    yield "max_mean_word_length", "the with " + "abcdefghij " * 98, "the with " + "abcdefghijk " * 98
    yield "max_symbol_word_ratio", prose(100) + " #" * 10, prose(100) + " #" * 11
    yield "max_symbol_word_ratio", "... … " * 5 + prose(100), "... … " * 5 + "… " + prose(100)
    bullets = lines(9, "- ")
    yield "max_bullet_line_fraction", "\n".join([*bullets, *lines(1)]), "\n".join([*bullets, *lines(1, "  • ")])
    ended, plain = lines(3, suffix="..."), lines(7)
    yield "max_ellipsis_line_fraction", "\n".join([*ended, *plain]), "\n".join([*ended, *plain[:-1]])
    letters = prose(80)
    yield "min_alphabetic_word_fraction", letters + " 1234" * 20, letters + " 1234" * 21
    yield "min_stop_words", prose(60), prose(60, stops="the ")


@pytest.mark.parametrize(("rule", "accepted", "refused"), list(quality_cases()))
def test_quality_rule_at_threshold_accepts_and_beyond_refuses(rule: str, accepted: str, refused: str) -> None:
    chain = GopherQuality()

    assert [found.rule for found in chain.refusals(Features(accepted))] == []
    assert [found.rule for found in chain.refusals(Features(refused))] == [rule]


CHARACTERS = 1000


def repeated_line(share: float, paragraph: bool) -> str:
    """A text of 1,000 characters whose one repeated line (or paragraph) has that share of them."""
    length = round(share * CHARACTERS)
    line = "".join(words(1, length))
    gap = "\n\n" if paragraph else "\n"
    rest = CHARACTERS - 2 * length - 2 * len(gap)
    return gap.join([line, "".join(words(1, rest)), line])


@pytest.mark.parametrize(
    ("rule", "paragraph", "limit"),
    [
        ("max_duplicate_line_character_fraction", False, 0.20),
        ("max_duplicate_paragraph_character_fraction", True, 0.20),
    ],
)
def test_character_rule_at_threshold_accepts_and_beyond_refuses(rule: str, paragraph: bool, limit: float) -> None:
    only = _only(rule, limit)

    assert not list(only.refusals(Features(repeated_line(limit, paragraph))))
    assert [found.rule for found in only.refusals(Features(repeated_line(limit + 0.001, paragraph)))] == [rule]


@pytest.mark.parametrize("paragraph", [False, True])
def test_count_rule_at_threshold_accepts_and_beyond_refuses(paragraph: bool) -> None:
    kind, gap = ("paragraph", "\n\n") if paragraph else ("line", "\n")
    rule = f"max_duplicate_{kind}_fraction"
    distinct = list(words(7))
    at_limit = gap.join([*distinct, *[distinct[0]] * 3])  # 3 of 10
    beyond = gap.join([*distinct, *[distinct[0]] * 4])  # 4 of 11

    assert not list(_only(rule, 0.30).refusals(Features(at_limit)))
    assert [found.rule for found in _only(rule, 0.30).refusals(Features(beyond))] == [rule]


@pytest.mark.parametrize(("n", "limit"), [(2, 0.20), (3, 0.18), (4, 0.16)])
def test_top_gram_rule_at_threshold_accepts_and_beyond_refuses(n: int, limit: float) -> None:
    rule = f"max_top_{n}gram_fraction"
    gram = " ".join(words(n))
    used = 4 * len(gram)

    def text(characters: int) -> str:
        pieces = [f"{gram} {word}" for word in words(4)]
        body = " ".join(pieces) + " "
        return body + "".join(words(1, characters - len(body)))

    assert not list(_only(rule, limit).refusals(Features(text(round(used / limit) + 1))))
    assert [found.rule for found in _only(rule, limit).refusals(Features(text(int(used / limit) - 1)))] == [rule]


@pytest.mark.parametrize(("n", "limit"), [(5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)])
def test_duplicate_gram_rule_at_threshold_accepts_and_beyond_refuses(n: int, limit: float) -> None:
    rule = f"max_duplicate_{n}gram_fraction"
    gram = " ".join(words(n))
    repeated = 5 * n  # characters of words, spaces not counted

    def text(characters: int) -> str:
        body = f"{gram} {next(words(1))} {gram} "
        return body + "".join(words(1, characters - len(body)))

    assert not list(_only(rule, limit).refusals(Features(text(round(repeated / limit) + 1))))
    assert [found.rule for found in _only(rule, limit).refusals(Features(text(int(repeated / limit) - 1)))] == [rule]


def test_published_thresholds_refuse_repetition_and_accept_prose() -> None:
    chain = [build_filter("gopher_repetition", {}), build_filter("gopher_quality", {})]

    assert first_refusal(chain, Features("\n".join(lines(20)))) is None
    refused = first_refusal(chain, Features("\n".join(["one line again and again"] * 20)))
    assert refused is not None
    assert refused[0] == "gopher_repetition.max_duplicate_line_fraction"
    assert refused[1].detail == "0.95, limit 0.3"


def test_filter_switched_off_rule_accepts() -> None:
    short = Features("only four words here")
    without = {"min_words": False, "min_stop_words": False}

    assert first_refusal([build_filter("gopher_quality", {})], short) is not None
    assert first_refusal([build_filter("gopher_quality", without)], short) is None


@pytest.mark.parametrize("text", ["", " \n ", "...", "🎉" * 100, "\x85\u2028"])
def test_rules_on_text_without_words_refuse_and_do_not_raise(text: str) -> None:
    refused = first_refusal([build_filter("gopher_quality", {})], Features(text))

    assert refused is not None
    assert refused[0] == "gopher_quality.min_words"
    list(GopherRepetition().refusals(Features(text)))


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("gopher_qualty", {}, "did you mean 'gopher_quality'?"),
        ("gopher_quality", {"min_word": 10}, "did you mean 'min_words'?"),
        ("gopher_quality", {"min_words": "ten"}, "'ten' is no threshold"),
        ("gopher_quality", {"min_words": True}, "True is no threshold"),
        ("gopher_quality", {"stop_words": ["", "a"]}, "no list of words"),
    ],
)
def test_build_filter_wrong_name_or_value_names_what_is_right(
    name: str, parameters: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message.replace("?", r"\?")):
        build_filter(name, parameters)


def _only(rule: str, limit: float) -> GopherRepetition:
    """The one rule with its published threshold, all others off."""
    published = GopherRepetition()
    assert getattr(published, rule) == limit
    off = {name: None for name in GopherRepetition.__dataclass_fields__ if name not in (rule, "name")}
    return GopherRepetition(**off)
