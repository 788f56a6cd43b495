"""Bytes to text: marks, declarations, corrections, and what is no text."""

from __future__ import annotations

import os

import pytest
from longhaul_ingest.domain.charsets import decode, is_binary

GERMAN = "Größe und Maß — „süß“"


@pytest.mark.parametrize(
    ("body", "declared", "text", "charset"),
    [
        (GERMAN.encode(), None, GERMAN, "utf-8"),
        (GERMAN.encode("cp1252"), "windows-1252", GERMAN, "cp1252"),
        ("Größe".encode("latin-1"), "ISO-8859-1", "Größe", "cp1252"),
        (GERMAN.encode("utf-8-sig"), "iso-8859-1", GERMAN, "utf-8"),
        (GERMAN.encode("utf-16"), "utf-8", GERMAN, "utf-16-le"),
        (GERMAN.encode("utf-16-be"), "utf-16be", GERMAN, "utf-16-be"),
        (GERMAN.encode(), "us-ascii", GERMAN, "utf-8"),
        (GERMAN.encode(), "iso-8859-1", GERMAN, "utf-8"),
        (GERMAN.encode("cp1252"), "utf-8", GERMAN, "cp1252"),
        ("日本語のテキストです。".encode("shift_jis"), "Shift_JIS", "日本語のテキストです。", "cp932"),
        ("Привет, мир".encode("koi8-r"), "koi8-r", "Привет, мир", "koi8-r"),
        (GERMAN.encode(), "no-such-charset", GERMAN, "utf-8"),
    ],
)
def test_decode_declared_charset_is_believed_as_far_as_bytes_allow(
    body: bytes, declared: str | None, text: str, charset: str
) -> None:
    decoded = decode(body, declared)

    assert decoded is not None
    assert decoded.text == text
    assert decoded.charset == charset


def test_decode_html_transport_comes_before_page_and_page_before_detection() -> None:
    body = '<meta charset="koi8-r"><p>Привет'.encode("koi8-r")

    in_page = decode(body, None, html=True)
    in_header = decode(body, "windows-1251", html=True)
    assert in_page is not None
    assert in_header is not None
    assert in_page.text.endswith("Привет")
    assert in_header.charset == "cp1251"


def test_decode_undeclared_text_is_detected() -> None:
    text = "Это довольно длинный русский текст, записанный в старой кодировке. " * 20

    decoded = decode(text.encode("cp1251"), None)
    assert decoded is not None
    assert decoded.text == text


@pytest.mark.parametrize(
    ("body", "binary"),
    [
        (b"plain\ttext\r\n\x0c", False),
        (GERMAN.encode("utf-16"), False),
        (b"", False),
        (b"\x1b[1mterminal\x1b[0m colours", False),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", True),
        (b"text" * 100 + b"\0", True),
        (bytes(range(1, 32)) * 10, True),
        (os.urandom(4096), True),
    ],
)
def test_is_binary_tells_text_from_other_bytes(body: bytes, binary: bool) -> None:
    assert is_binary(body) is binary


def test_is_binary_believes_a_wide_charset() -> None:
    body = "wide".encode("utf-16-le")

    assert is_binary(body)
    assert not is_binary(body, "UTF-16LE")
