"""Tables, lists, code, mathematics, emoji and entities of a page come out as text, in both modes."""

from __future__ import annotations

import time

import pytest
from longhaul_core.recipe import ExtractionMode
from longhaul_ingest.domain.cleaning import clean_text
from longhaul_ingest.domain.extraction import extractor
from longhaul_ingest.domain.symbols import write_out_symbols

from tests.integration.ingest.support import PROSE

MODES = list(ExtractionMode)
TEX = "application/x-tex"
KATEX = (
    "<span class='katex'><span class='katex-mathml'><math><semantics><mrow><mi>y</mi><mo>=</mo><mn>2</mn></mrow>"
    f"<annotation encoding='{TEX}'>y = 2 &lt; 3</annotation></semantics></math></span>"
    "<span class='katex-html' aria-hidden='true'><span class='base'><span>y</span></span><span>=2</span></span></span>"
)
WIKIPEDIA = (
    "<span class='mwe-math-element'><span style='display: none;'><math alttext='{\\alpha}'><mi>α</mi></math></span>"
    "<img src='a.svg' class='mwe-math-fallback-image-inline' alt='{\\displaystyle \\alpha =1}'></span>"
)


def text_of(body: str, mode: ExtractionMode) -> str:
    """Text of an article with `body` between two paragraphs of prose."""
    prose = "".join(f"<p>{PROSE.format(number=number)}</p>" for number in (1, 2))
    page = (
        f"<html><body><nav><a href='/'>Menu entry</a></nav><main><article>{prose}{body}{prose}</article></main></body>"
    )
    return clean_text(extractor(mode)(page))


@pytest.mark.parametrize("mode", MODES)
def test_table_keeps_its_cells_in_rows(mode: ExtractionMode) -> None:
    rows = "".join(f"<tr><td>{fish}</td><td>{price} crowns</td></tr>" for fish, price in (("Cod", 12), ("Ling", 9)))
    text = text_of(f"<table><thead><tr><th>Fish</th><th>Price</th></tr></thead><tbody>{rows}</tbody></table>", mode)
    found = [line.replace("|", " ").split() for line in text.splitlines()]

    start = found.index(["Fish", "Price"])
    assert [row for row in found[start:] if row and not set(row[0]) <= {"-"}][1:3] == [
        ["Cod", "12", "crowns"],
        ["Ling", "9", "crowns"],
    ]


@pytest.mark.parametrize("mode", MODES)
def test_nested_lists_and_definitions_keep_their_items_on_lines(mode: ExtractionMode) -> None:
    items = "<ol><li>First the nets</li><li>Then the boats<ul><li>the small one</li></ul></li></ol>"
    text = text_of(f"{items}<dl><dt>Sheet</dt><dd>A rope, not a sail</dd></dl>", mode)
    lines = [line.strip(" -•*.0123456789") for line in text.splitlines()]

    start = lines.index("First the nets")
    wanted = ["First the nets", "Then the boats", "the small one", "Sheet", "A rope, not a sail"]
    assert [line for line in lines[start:] if line][:5] == wanted


@pytest.mark.parametrize("mode", MODES)
def test_code_keeps_indentation_empty_lines_and_operators(mode: ExtractionMode) -> None:
    code = "def sail(boat):\n    if boat < 3:\n        return boat & 1\n\n    return None"
    marked = code.replace("<", "&lt;").replace("& ", "&amp; ").replace("def", "<span class='k'>def</span>")
    text = text_of(
        f"<pre><code class='language-python'>{marked}\n</code></pre><p>Call <code>sail(2)</code> now.</p>", mode
    )

    assert f"\n{code}\n" in text
    assert "Call sail(2) now." in text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (
            r"Euler wrote \(e^{i\pi} + 1 = 0\), and $$\frac{1}{3}$$.",
            r"wrote \(e^{i\pi} + 1 = 0\), and $$\frac{1}{3}$$.",
        ),
        ("So <script type='math/tex'>a &lt; b</script> is true.", r"So \(a < b\) is true."),
        ("So <script type='math/tex; mode=display'>a^2</script> is true.", r"So \[a^2\] is true."),
        (f"So <math><mi>x</mi><annotation encoding='{TEX}'>x^2</annotation></math> is true.", r"So \(x^2\) is true."),
        ("So <math alttext='x^3' display='block'><mi>x</mi></math> is true.", r"So \[x^3\] is true."),
        ("So <math><mi>x</mi><mo>=</mo><mn>1</mn></math> is true.", "So x=1 is true."),
        (f"So {KATEX} is true.", r"So \(y = 2 < 3\) is true."),
        (f"So {WIKIPEDIA} is true.", r"So \({\displaystyle \alpha =1}\) is true."),
    ],
    ids=["tex", "script", "script-display", "annotation", "alttext", "bare", "katex", "wikipedia"],
)
def test_mathematics_is_text_once(body: str, wanted: str, mode: ExtractionMode) -> None:
    assert wanted in text_of(f"<p>{body}</p>", mode)


@pytest.mark.parametrize("mode", MODES)
def test_emoji_stay_as_characters_joined_ones_and_pictures_too(mode: ExtractionMode) -> None:
    picture = "<img class='wp-smiley emoji' alt='🐟' src='fish.png'><img class='photo' alt='A boat' src='b.jpg'>"
    text = text_of(f"<p>Good catch 🎉 today {picture} said the fisher 👩‍🚀, or 👩&zwj;🚒.</p>", mode)

    assert "Good catch 🎉 today 🐟 said the fisher 👩‍🚀, or 👩‍🚒." in text


@pytest.mark.parametrize("mode", MODES)
def test_entities_are_characters(mode: ExtractionMode) -> None:
    text = text_of(
        "<p>Salt &amp; pepper: 5 &euro; &#8211; &lt;cheap&gt; &#x1F41F; caf&eacute; &hearts; 3&times;4.</p>", mode
    )

    assert "Salt & pepper: 5 € – <cheap> 🐟 café ♥ 3×4." in text


def test_letters_that_are_parted_by_an_invisible_character_stay_parted() -> None:
    persian = "می\u200cخواهم"
    assert persian in text_of(f"<p>{persian} is one word of two parts, and it is written like this.</p>", MODES[0])


@pytest.mark.parametrize(
    "tag", ["<math>", "<math ", "<script type='math/tex'>", "<span class='katex-html'>", "<img emoji "]
)
def test_tags_that_are_never_closed_cost_no_more_than_reading_them(tag: str) -> None:
    begun = time.process_time()
    write_out_symbols("math emoji " + tag * 200_000)
    assert time.process_time() - begun < 10  # quadratic cost would be minutes
