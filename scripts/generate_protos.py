"""Generate libs/protos/src/longhaul from protos/: messages, gRPC stubs and their type stubs.

Usage: python scripts/generate_protos.py [--check]

`--check` generates into a temporary folder and fails, naming the files, when the committed code differs.
"""

import argparse
import filecmp
import os
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = ROOT / "libs" / "protos" / "src"


def generate(target: Path) -> None:
    """Run protoc over every .proto file, writing Python modules below target."""
    # The plug-ins stand beside this interpreter, which need not be on the PATH.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    well_known = Path(protoc.__file__).parent / "_proto"
    files = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    arguments = [
        "protoc",
        f"-I{PROTOS}",
        f"-I{well_known}",
        f"--python_out={target}",
        f"--mypy_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_grpc_out={target}",
        *files,
    ]
    if protoc.main(arguments) != 0:
        sys.exit("generate_protos: protoc failed")
    (target / "longhaul" / "py.typed").touch()


def differences(left: Path, right: Path) -> list[str]:
    """Return the relative paths of files that are in only one of two folders, or differ."""
    names = {
        str(path.relative_to(base))
        for base in (left, right)
        for path in base.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return sorted(
        name
        for name in names
        if not (
            (left / name).is_file()
            and (right / name).is_file()
            and filecmp.cmp(left / name, right / name, shallow=False)
        )
    )


def main() -> None:
    """Generate, or check that what is committed is what would be generated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "src"  # the temporary folder itself is closed to others
        target.mkdir()
        generate(target)
        if check:
            changed = differences(target, GENERATED)
            if changed:
                sys.exit("generate_protos: run `make proto` and commit; these differ:\n  " + "\n  ".join(changed))
            return
        shutil.rmtree(GENERATED, ignore_errors=True)
        shutil.copytree(target, GENERATED)


if __name__ == "__main__":
    main()
