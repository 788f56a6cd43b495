"""Make the packages of this tree importable in the virtual environment, and install the `longhaul` command.

Editable installs of ten packages take half a minute of build isolation; a path file and one launcher take none.

Usage: python scripts/link_packages.py libs/core services/ingest ...
"""

import sys
import sysconfig
from pathlib import Path

LAUNCHER = """#!{python}
import sys

from longhaul_client.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
"""


def link(packages: list[str]) -> None:
    """Write `longhaul-tree.pth` naming each package's src folder, and bin/longhaul."""
    root = Path.cwd()
    sources = [root / package / "src" for package in packages]
    missing = [str(source) for source in sources if not source.is_dir()]
    if missing:
        sys.exit(f"link_packages: no such folder: {', '.join(missing)}")
    path_file = Path(sysconfig.get_path("purelib")) / "longhaul-tree.pth"
    path_file.write_text("".join(f"{source}\n" for source in sources))
    launcher = Path(sysconfig.get_path("scripts")) / "longhaul"
    launcher.write_text(LAUNCHER.format(python=sys.executable))
    launcher.chmod(0o755)


if __name__ == "__main__":
    link(sys.argv[1:])
