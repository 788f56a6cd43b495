"""What a page looks like to the extractor."""

from __future__ import annotations

import pytest
from longhaul_ingest.domain.html_tree import prepare_tree
from longhaul_ingest.domain.symbols import BLANK_LINE
from lxml import html


def shown(text: str) -> str:
    tree = prepare_tree(text)
    assert tree is not None
    return html.tostring(tree.find("body"), encoding="unicode")


def test_inline_marks_dissolve_into_the_text_around_them() -> None:
    page = "<body><p>one <span class=x>two <b>three</b></span> four<i>!</i></p></body>"

    assert shown(page) == "<body><p>one two three four!</p></body>"


def test_white_space_is_collapsed_outside_preformatted_text() -> None:
    page = "<body><p>one\n  two\tthree</p>\n\n<pre>a\n  <code>b\n\n  c</code>\n</pre>\n  tail  end</body>"

    marked = page[page.index("<pre>") : page.index("</pre>")].replace("\n\n", f"\n{BLANK_LINE}\n")
    assert shown(page) == f"<body><p>one two three</p> {marked}</pre> tail end</body>"


def test_elements_without_text_and_hidden_ones_are_taken_out_and_what_follows_stays() -> None:
    page = (
        "<body><h1>Title<a class='headerlink x' href='#t'>¶</a> one</h1><script>x</script>two"
        "<p style='display : none'>no</p>three<div hidden>no</div>four<!-- no -->five</body>"
    )

    assert shown(page) == "<body><h1>Title one</h1>twothreefourfive</body>"


@pytest.mark.parametrize("page", ["", " ", "<!-- only -->"])
def test_page_of_nothing_is_none_or_empty(page: str) -> None:
    tree = prepare_tree(page)

    assert tree is None or not "".join(tree.itertext()).strip()


@pytest.mark.parametrize("page", ["<html hidden><body>x", "<body style='display:none'>x", "half \ud83d pair"])
def test_page_hidden_as_a_whole_or_damaged_is_read(page: str) -> None:
    tree = prepare_tree(page)

    assert tree is not None
    assert "".join(tree.itertext()).strip()
