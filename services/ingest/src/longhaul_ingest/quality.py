"""Trains a quality classifier on examples: `python -m longhaul_ingest.quality train|calibrate|score`.

Examples and samples are JSON lines with a text field, or Parquet, as the readers of ingest take them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from longhaul_core.errors import LonghaulError
from longhaul_core.recipe import SourceKind

from longhaul_ingest.adapters.readers.dispatch import read_piece
from longhaul_ingest.adapters.readers.lines import Fields
from longhaul_ingest.domain.documents import Passage
from longhaul_ingest.domain.planning import Piece
from longhaul_ingest.domain.quality import load_classifier, train
from longhaul_ingest.domain.words import split_words


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands; errors are one line."""
    parser = argparse.ArgumentParser(prog="python -m longhaul_ingest.quality", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    learn = commands.add_parser("train", help="learn from good and bad examples")
    learn.add_argument("--good", nargs="+", required=True, type=Path)
    learn.add_argument("--bad", nargs="+", required=True, type=Path)
    learn.add_argument("--epochs", type=int, default=10)
    learn.add_argument("--seed", type=int, default=0)
    learn.add_argument("--out", required=True, type=Path)
    calibrate = commands.add_parser("calibrate", help="note the scores of a sample, for percentiles")
    score = commands.add_parser("score", help="print the score of each text")
    for command in (calibrate, score):
        command.add_argument("--model", required=True, type=Path)
        command.add_argument("texts", nargs="+", type=Path)
    for command in (learn, calibrate, score):
        command.add_argument("--text-field", default="text")
    try:
        _run(parser.parse_args(arguments))
    except LonghaulError as error:
        sys.stderr.write(f"{error.message} {error.action}\n")
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.command == "train":
        good, bad = (_texts(files, options.text_field) for files in (options.good, options.bad))
        options.out.write_bytes(train(good, bad, epochs=options.epochs, seed=options.seed).dump())
        sys.stdout.write(f"{options.out}: {len(good)} good and {len(bad)} bad examples\n")
        return
    model, texts = load_classifier(str(options.model)), _texts(options.texts, options.text_field)
    if options.command == "calibrate":
        options.model.write_bytes(model.calibrate(texts).dump())
        sys.stdout.write(f"{options.model}: scores of {len(texts)} texts noted\n")
        return
    for text in texts:
        sys.stdout.write(json.dumps({"score": model.score(split_words(text).hashes), "text": text[:80]}) + "\n")


def _texts(files: Sequence[Path], field: str) -> list[str]:
    found: list[str] = []
    for file in files:
        kind = SourceKind.PARQUET if file.suffix == ".parquet" else SourceKind.JSONL
        piece = Piece(quote(str(file.absolute())), file.name, 0, file.stat().st_size)
        records = read_piece(kind, piece, Fields(field))
        found += [record.text for record in records if isinstance(record, Passage)]
    return found


if __name__ == "__main__":
    sys.exit(main())
