"""Programming languages by file ending, for source trees."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

LANGUAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "py": "python", "pyi": "python", "c": "c", "h": "c", "cc": "c++", "cpp": "c++", "cxx": "c++", "hpp": "c++",
        "hh": "c++", "rs": "rust", "go": "go", "java": "java", "kt": "kotlin", "scala": "scala", "js": "javascript",
        "mjs": "javascript", "jsx": "javascript", "ts": "typescript", "tsx": "typescript", "rb": "ruby", "php": "php",
        "pl": "perl", "pm": "perl", "sh": "shell", "bash": "shell", "sql": "sql", "r": "r", "jl": "julia",
        "swift": "swift", "m": "objective-c", "cs": "c#", "fs": "f#", "hs": "haskell", "ml": "ocaml", "mli": "ocaml",
        "ex": "elixir", "exs": "elixir", "erl": "erlang", "lua": "lua", "zig": "zig", "cu": "cuda", "proto": "protobuf",
        "lisp": "lisp", "clj": "clojure", "f90": "fortran", "asm": "assembly", "s": "assembly", "vhd": "vhdl",
        "v": "verilog", "tex": "tex", "cmake": "cmake", "toml": "toml", "yaml": "yaml", "yml": "yaml",
    }
)  # fmt: skip
UNKNOWN_LANGUAGE: Final = "unknown"


def language_of(name: str) -> str:
    """The language of a file by its name; compression endings aside."""
    parts = name.rsplit("/", 1)[-1].lower().split(".")
    while len(parts) > 1 and parts[-1] in ("gz", "zst", "bz2", "xz"):
        parts.pop()
    return LANGUAGES.get(parts[-1], UNKNOWN_LANGUAGE) if len(parts) > 1 else UNKNOWN_LANGUAGE
