"""What the command prints: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from longhaul_core.errors import LonghaulError
from rich.console import Console
from rich.table import Table
from rich.text import Text

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

PIPE_WIDTH = 200
"""Columns where there is no terminal: tables in a file or a pipe are not folded."""

# Texts of services, logs and documents are printed as they stand: brackets and colons in them are not for the terminal.
console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
error_console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_json(content: Any) -> None:
    """Print content, or protobuf messages, as JSON on standard output."""
    sys.stdout.write(json.dumps(_plain(content), indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_json_line(content: Any) -> None:
    """Print content as one line of JSON: one item of a stream."""
    sys.stdout.write(json.dumps(_plain(content), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _plain(content: Any) -> Any:
    if isinstance(content, Message):
        return MessageToDict(content, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(item) for item in content]
    return content


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Print rows under headings; columns that begin with '>' are aligned to the right."""
    content = [[str(cell) for cell in row] for row in rows]
    if not content:
        console.print(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    for row in content:
        table.add_row(*row)
    console.print(table)


def print_error(error: LonghaulError) -> None:
    """Print what was wrong and what to do next."""
    error_console.print(Text("error:", style="bold red"), error.message)
    if error.action:
        error_console.print(Text("next: ", style="bold"), error.action)


def print_labelled(label: str, text: str, *, style: str) -> None:
    """Print a text behind a label that stands out."""
    console.print(Text(label, style=style), text)
