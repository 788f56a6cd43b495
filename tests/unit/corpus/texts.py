"""Real text for tests: the docstrings of Python's standard library, and near copies made of it."""

import ast
import functools
import random
import sysconfig
from pathlib import Path

MINIMUM_WORDS = 80


@functools.cache
def library_texts(count: int = 160) -> tuple[str, ...]:
    """Docstrings of whole modules, one text a module, all different."""
    texts: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")) + sorted(
        Path(sysconfig.get_path("stdlib")).glob("*/*.py")
    ):
        if len(texts) >= count:
            break
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        text = "\n\n".join(_docstrings(path.read_bytes()))
        if len(text.split()) >= MINIMUM_WORDS:
            texts.setdefault(text)
    return tuple(texts)


def _docstrings(source: bytes) -> list[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    return [text for node in nodes if (text := ast.get_docstring(node))]


def edited(text: str, share: float, seed: int) -> str:
    """A near copy: a share of the words is replaced, in runs, as an editor or a template would."""
    chance = random.Random(seed)
    words = text.split()
    for _ in range(max(1, round(share * len(words) / 4))):
        place = chance.randrange(max(1, len(words) - 4))
        words[place : place + 4] = [f"edit{chance.randrange(10**6)}" for _ in range(4)]
    return " ".join(words)
