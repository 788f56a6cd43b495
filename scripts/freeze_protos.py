"""Keep the protos of a release as protos/previous.binpb: what the next release must go on serving.

Usage: python scripts/freeze_protos.py REVISION

REVISION is the tag of the release (or any other revision of git). `make proto-check` then refuses what would break its
clients and agents, and a test lets pods that know no more than it train under the present controller.
"""

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FROZEN = ROOT / "protos" / "previous.binpb"
BUF = Path(sys.executable).parent / "buf"


def freeze(revision: str, target: Path) -> None:
    """Write the descriptors of a revision's protos, with what they import and without comments."""
    archive = subprocess.run(["git", "archive", revision, "protos"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        sys.exit(f"freeze_protos: {archive.stderr.decode().strip()}")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as opened:
            opened.extractall(folder, filter="data")
        subprocess.run([BUF, "build", "--exclude-source-info", "-o", target], cwd=Path(folder) / "protos", check=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision")
    freeze(parser.parse_args().revision, FROZEN)


if __name__ == "__main__":
    main()
