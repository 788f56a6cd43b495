"""Text of EPUB books and PDF files, each one document."""

from __future__ import annotations

import io
import posixpath
import zipfile
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

from lxml import etree
from resiliparse.extract.html2text import extract_plain_text

CONTAINER: Final = "META-INF/container.xml"
HTML_TYPES: Final = frozenset({"application/xhtml+xml", "text/html"})
CHAPTER_BYTES: Final = 64 << 20
"""A chapter that unpacks to more is no chapter but an attack."""


class BookError(ValueError):
    """A book that cannot be read, and why."""


def epub_text(body: bytes) -> tuple[str, dict[str, str]]:
    """Chapters of a book in reading order, and its title and language. Raises BookError."""
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            package = _package_path(archive)
            root = _xml(archive, package)
            chapters = [_chapter(archive, name) for name in _reading_order(root, posixpath.dirname(package))]
    except (zipfile.BadZipFile, KeyError, etree.XMLSyntaxError, RuntimeError, NotImplementedError, OSError) as error:
        raise BookError(f"not a readable EPUB ({error})") from error
    about = {name: value for name in ("title", "language") if (value := _about(root, name))}
    return "\n\n".join(text for text in chapters if text), about


def pdf_text(body: bytes) -> tuple[str, dict[str, str]]:
    """Text layer of a PDF, page by page; empty where it has none (a scan). Raises BookError."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(io.BytesIO(body))
        if reader.is_encrypted and not reader.decrypt(""):
            raise BookError("it needs a password")
        pages = [page.extract_text() for page in reader.pages]
        title = reader.metadata.title if reader.metadata else None
    except BookError:
        raise
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise BookError(f"not a readable PDF ({error})") from error
    about = {"pages": str(len(pages))} | ({"title": str(title)} if title else {})
    return "\n\n".join(text.strip() for text in pages if text.strip()), about


def _xml(archive: zipfile.ZipFile, name: str) -> etree._Element:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, recover=True, huge_tree=False)
    return etree.fromstring(archive.read(name), parser)


def _package_path(archive: zipfile.ZipFile) -> str:
    for file in _xml(archive, CONTAINER).iter("{*}rootfile"):
        return str(file.get("full-path"))
    raise KeyError("no rootfile in META-INF/container.xml")


def _reading_order(root: etree._Element, folder: str) -> Iterator[str]:
    items = {
        str(item.get("id")): str(item.get("href"))
        for item in root.iter("{*}item")
        if item.get("media-type") in HTML_TYPES and "nav" not in (item.get("properties") or "").split()
    }
    for reference in root.iter("{*}itemref"):
        href = items.get(str(reference.get("idref")))
        if href:
            yield posixpath.normpath(posixpath.join(folder, unquote(href.partition("#")[0])))


def _chapter(archive: zipfile.ZipFile, name: str) -> str:
    if archive.getinfo(name).file_size > CHAPTER_BYTES:
        raise KeyError(f"{name} unpacks to more than {CHAPTER_BYTES} bytes")
    html = archive.read(name).decode("utf-8", "replace")
    return str(extract_plain_text(html, main_content=False, alt_texts=False)).strip()


def _about(root: etree._Element, name: str) -> str:
    for found in root.iter(f"{{*}}{name}"):
        return (found.text or "").strip()
    return ""
