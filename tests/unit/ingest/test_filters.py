"""Filters by address, language, personal data, quality, the user's own rule, and those that are off by default."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
from longhaul_core.errors import FailedPrecondition, InvalidArgument
from longhaul_ingest.domain import custom
from longhaul_ingest.domain.features import Features
from longhaul_ingest.domain.filters import build_filter, judge
from longhaul_ingest.domain.privacy import PersonalData
from longhaul_ingest.domain.quality import load_classifier, train
from longhaul_ingest.domain.words import split_words
from longhaul_ingest.quality import main as quality_command

from tests.unit.ingest.fasttext_model import write_model

ENGLISH = "The harbour of the old town lies below a hill, and the boats that leave it have to be back before the tide."
GERMAN = "Der Hafen der alten Stadt liegt unter einem Hügel, und die Boote müssen vor der Ebbe wieder da sein."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    words = {
        "en": ["the", "of", "a", "and", "that", "it", "be", "to"],
        "de": ["der", "die", "das", "und", "liegt", "einem", "wieder"],
    }
    return str(write_model(tmp_path_factory.mktemp("model") / "languages.bin", words))


def verdict(name: str, text: str, url: str = "", **parameters: Any) -> tuple[str, dict[str, Any], str]:
    """Rule or "", labels, text."""
    found = judge([build_filter(name, parameters)], Features(text, url))
    return found.refused[0] if found.refused else "", dict(found.labels), found.text


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("https://www.bad.org/a", "domain_files"),
        ("https://notbad.org/a", ""),
        ("https://good.org/page", "url_files"),
        ("https://good.org/page2", ""),
        ("https://good.org/free-casino-now", "word_files"),
        ("https://good.org/casinos", ""),
        ("https://good.org/cheap/pills", "soft_word_files"),
        ("https://good.org/cheap/books", ""),
        ("folder/file.txt", ""),
    ],
)
def test_address_on_a_list_is_refused_and_a_near_one_not(tmp_path: Path, url: str, rule: str) -> None:
    lists = {
        "domain": "# bad\nbad.org\n",
        "url": "https://good.org/page\n",
        "word": "casino\n",
        "soft_word": "cheap\npills\n",
    }
    for name, content in lists.items():
        (tmp_path / name).write_text(content)
    parameters = {f"{name}_files": [str(tmp_path / name)] for name in lists}

    assert verdict("url_lists", ENGLISH, url, **parameters)[0] == (f"url_lists.{rule}" if rule else "")


@pytest.mark.parametrize("built_in", [True, False])
def test_language_is_noted_and_others_refused(model: str, built_in: bool) -> None:
    model = "" if built_in else model
    parameters = {"languages": ["en"], "model": model}

    assert verdict("language", ENGLISH, **parameters)[0] == ""
    rule, labels, _ = verdict("language", GERMAN, **parameters)
    assert (rule, labels["language"]) == ("language.languages", "de")
    assert verdict("language", GERMAN, model=model)[0] == ""


def test_language_score_on_each_side_of_its_threshold() -> None:
    score = verdict("language", ENGLISH)[1]["language_score"]

    assert verdict("language", ENGLISH, languages=["en"], min_score=score)[0] == ""
    assert verdict("language", ENGLISH, languages=["en"], min_score=score + 0.001)[0] == "language.min_score"


def test_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"nothing")
    with pytest.raises(FailedPrecondition, match=r"m\.bin is no fastText model"):
        verdict("language", ENGLISH, model=str(tmp_path / "m.bin"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to jane.doe+x@mail.example.org now", "write to email@example.com now"),
        ("not an @ address", "not an @ address"),
        ("from 8.8.8.8 today", "from 22.214.171.124 today"),
        ("from 192.168.0.1 and 10.0.0.1", "from 192.168.0.1 and 10.0.0.1"),
        ("version 1.2.3 of it", "version 1.2.3 of it"),
        ("call +44 20 7946 0958 or (555) 123-4567", "call <phone> or <phone>"),
        ("in 2019-2020 about 1,234,567 people", "in 2019-2020 about 1,234,567 people"),
        ("key AKIAIOSFODNN7EXAMPLE here", "key <secret> here"),
        ("AKIA is a word", "AKIA is a word"),
        ("token ghp_0123456789abcdefghijABCDEFGHIJ012345 end", "token <secret> end"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----\nafter", "<secret>\nafter"),
    ],
)
def test_personal_data_is_replaced_and_like_text_not(text: str, expected: str) -> None:
    assert verdict("pii", text)[2] == expected


def test_personal_data_is_counted_and_kinds_can_be_left() -> None:
    text = "a@b.org c@d.org 8.8.8.8"
    rule, labels, rest = verdict("pii", text, ip=False, max_replacements=2)

    assert (rule, rest, labels["scores"]) == ("", "email@example.com email@example.com 8.8.8.8", {"pii_email": 2})
    assert verdict("pii", text, max_replacements=2)[0] == "pii.max_replacements"


def examples(word: str) -> list[str]:
    return [f"{ENGLISH} {word} {word} number {number}" for number in range(40)]


def test_classifier_tells_good_from_bad_and_is_the_same_each_time(tmp_path: Path) -> None:
    good, bad = examples("theorem proof lemma"), examples("casino bonus click")
    trained = train(good, bad)

    assert trained.dump() == train(good, bad).dump()
    assert trained.score(split_words("a lemma and its proof of the theorem").hashes) > 0.8
    assert trained.score(split_words("click for the casino bonus").hashes) < 0.2
    assert trained.score(split_words("").hashes) == 0.5


def test_quality_command_trains_calibrates_and_the_filter_takes_percentiles(tmp_path: Path) -> None:
    for name, rows in {"good": examples("proof lemma"), "bad": examples("casino click")}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    model, good, bad = (str(tmp_path / name) for name in ("m.npz", "good.jsonl", "bad.jsonl"))
    assert quality_command(["train", "--good", good, "--bad", bad, "--out", model]) == 0
    text = examples("proof lemma")[3]
    with pytest.raises(FailedPrecondition, match="no sample"):
        verdict("quality", text, model=model, min_percentile=50)
    assert quality_command(["calibrate", "--model", model, good, bad]) == 0
    load_classifier.cache_clear()

    assert verdict("quality", text, model=model, min_percentile=50)[0] == ""
    assert (
        verdict("quality", examples("casino click")[3], model=model, min_percentile=50)[0] == "quality.min_percentile"
    )
    score = verdict("quality", text, model=model)[1]["scores"]["quality"]
    assert verdict("quality", text, model=model, min_score=score - 0.001)[0] == ""
    assert verdict("quality", text, model=model, min_score=score + 0.001)[0] == "quality.min_score"


def short_texts_only(limit: float) -> Any:
    return lambda document: True if len(document["text"]) <= limit else f"{len(document['text'])} characters"


def test_rule_of_the_users_own_is_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("short", f"{__name__}:short_texts_only", custom.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: short_texts_only)
    monkeypatch.setattr(custom, "entry_points", lambda group: EntryPoints([point]))

    assert verdict("custom", "x" * 10, rule="short", limit=10)[0] == ""
    assert verdict("custom", "x" * 11, rule="short", limit=10)[0] == "custom.short"
    with pytest.raises(FailedPrecondition, match="No installed package"):
        build_filter("custom", {"rule": "long"})


def test_toxic_words_on_each_side(tmp_path: Path, model: str) -> None:
    (tmp_path / "words").write_text("darn\n")
    text = " ".join(["word"] * 99 + ["DARN"])
    parameters = {"word_files": [str(tmp_path / "words")]}

    assert verdict("toxicity", text, **parameters)[0] == ""
    assert verdict("toxicity", f"{text} darn", **parameters)[0] == "toxicity.max_word_fraction"
    assert verdict("toxicity", GERMAN, model=model, label="de")[0] == "toxicity.max_score"
    assert verdict("toxicity", ENGLISH, model=model, label="de")[0] == ""


def test_spelling_on_each_side(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("known\n")
    parameters = {"word_files": [str(tmp_path / "words")]}

    assert verdict("spelling", " ".join(["Known"] * 6 + ["xqz"] * 4), **parameters)[0] == ""
    assert (
        verdict("spelling", " ".join(["Known"] * 59 + ["xqz"] * 41), **parameters)[0] == "spelling.min_known_fraction"
    )


def test_confusable_letters_are_made_plain_and_many_refused() -> None:
    fake = "pаypаl"  # with Cyrillic а

    assert verdict("confusables", f"{fake} {'word ' * 19}")[2].startswith("paypal ")
    assert verdict("confusables", f"{fake} {'word ' * 18}")[0] == "confusables.max_mixed_word_fraction"
    assert verdict("confusables", "Москва слово привет")[2] == "Москва слово привет"


def test_emoji_are_kept_named_or_dropped() -> None:
    text = "good 😀 day"

    assert verdict("emoji", text)[2] == text
    assert verdict("emoji", text, action="name")[2] == "good :grinning face: day"
    assert verdict("emoji", text, action="drop")[2] == "good  day"
    assert verdict("emoji", text, max_per_word=0.5)[0] == ""
    assert verdict("emoji", text, max_per_word=0.49)[0] == "emoji.max_per_word"


@pytest.mark.parametrize(
    ("name", "parameters", "problem"),
    [
        ("gopher", {}, "did you mean 'gopher_"),
        ("c4", {"min_sentence": 3}, "did you mean 'min_sentences'"),
        ("c4", {"javascript": 3}, "neither true nor false"),
        ("fineweb", {"max_newlines_per_word": -1}, "no threshold"),
        ("language", {"languages": "en"}, "no list of words"),
        ("quality", {}, "needs it"),
        ("emoji", {"action": "eat"}, "none of keep, name, drop"),
        ("custom", {}, "entry point"),
    ],
)
def test_filter_that_cannot_be_is_refused(name: str, parameters: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        build_filter(name, parameters)


def test_missing_list_is_named() -> None:
    with pytest.raises(FailedPrecondition, match=r"/nowhere/list cannot be read"):
        verdict("url_lists", ENGLISH, "https://a.org", domain_files=["/nowhere/list"])


def test_personal_data_pattern_agrees_with_datatrove() -> None:
    from datatrove.pipeline.formatters import PIIFormatter

    text = "a.b@c.org x@y 1.1.1.1 300.1.1.1 127.0.0.1 me@[8.8.4.4] 10.20.30.40 z@q.museum"
    theirs = PIIFormatter(email_replacement=PersonalData().email, ip_replacement=PersonalData().ip).format(text)

    assert PersonalData(phone="").replace(text)[0] == theirs
