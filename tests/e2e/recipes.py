"""Small recipes on generated text, for end-to-end tests."""

import random
from pathlib import Path
from typing import Any

import yaml

COMMON_WORDS = """
the of and to in that have it for with as was be are this but by from or which one would all will there say
who make when can more if no man out other so what time up go about than into could state only new year some
take come these know see use get like then first any work now may such give over think most even find day also
after way many
"""


def write_documents(folder: Path, *, documents: int = 120, sentences: int = 40, seed: int = 1) -> Path:
    """Write text files of random English-like sentences that the quality filters keep."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, words = random.Random(seed), COMMON_WORDS.split()
    for index in range(documents):
        lines = [
            " ".join(generator.choices(words, k=generator.randint(8, 16))).capitalize() + "." for _ in range(sentences)
        ]
        (folder / f"document-{index:04d}.txt").write_text("\n".join(lines) + "\n")
    return folder


def recipe(name: str, source: Path, *, kind: str = "text", **sections: Any) -> dict[str, Any]:
    """Return a recipe for a tiny model that trains in seconds; `sections` are merged in."""
    document: dict[str, Any] = {
        "name": name,
        "sources": [{"name": "docs", "kind": kind, "path": str(source)}],
        "corpus": {
            "holdout": {"fraction": 0.1},
            "evaluation_tasks": {"bits_per_byte_documents": 4, "cloze_questions": 4},
        },
        "tokenizer": {"vocabulary_size": 384},
        "model": {"hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 1, "ffn_size": 64},
        "training": {
            "steps": 20,
            "schedule": {"warmup_steps": 4},
            "data": {"sequence_length": 64, "global_batch_size": 4, "micro_batch_size": 2},
            "validation": {"every_steps": 10, "sequences": 4},
        },
        "checkpoints": {"every_steps": 10},
        "evaluation": {"tasks": [{"task": "bits_per_byte"}]},
        "resources": {"nodes": 2},
    }
    for key, value in sections.items():
        document[key] = {**document[key], **value} if isinstance(value, dict) and key in document else value
    return document


def write_recipe(path: Path, document: dict[str, Any]) -> Path:
    """Write a recipe as YAML."""
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path
