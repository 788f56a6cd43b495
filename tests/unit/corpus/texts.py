"""Real text for tests: the docstrings of Python's standard library, and near copies made of it."""

import functools
import inspect
import random
import re
import sysconfig
from pathlib import Path

MINIMUM_WORDS = 80
_TRIPLE_QUOTED = re.compile(r'"""(.+?)"""', re.DOTALL)


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
        text = "\n\n".join(_docstrings(path.read_text("utf-8", "replace")))
        if len(text.split()) >= MINIMUM_WORDS:
            texts.setdefault(text)
    return tuple(texts)


def _docstrings(source: str) -> list[str]:
    """Texts in triple quotes; parsing the module would take ten times as long."""
    return [inspect.cleandoc(text) for text in _TRIPLE_QUOTED.findall(source)]


def edited(text: str, share: float, seed: int) -> str:
    """A near copy: a share of the words is replaced, in runs, as an editor or a template would."""
    chance = random.Random(seed)
    words = text.split()
    for _ in range(max(1, round(share * len(words) / 4))):
        place = chance.randrange(max(1, len(words) - 4))
        words[place : place + 4] = [f"edit{chance.randrange(10**6)}" for _ in range(4)]
    return " ".join(words)
