"""Write docker/requirements/*.txt, what each image installs, or the bill of materials of one image.

Usage:
    python scripts/image_lists.py [--check]
    python scripts/image_lists.py --sbom IMAGE
"""

import argparse
import json
import sys
import tomllib

from images.contents import IMAGES, REQUIREMENTS, ROOT, requirement_file, sbom


def main() -> None:
    """Write the lists, check them, or print a bill of materials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--sbom", metavar="IMAGE", choices=sorted(IMAGES))
    given = parser.parse_args()
    if given.sbom:
        version = tomllib.loads((ROOT / "libs" / "core" / "pyproject.toml").read_text())["project"]["version"]
        print(json.dumps(sbom(given.sbom, version), indent=1))  # noqa: T201
        return
    try:
        files = {REQUIREMENTS / f"{name}.txt": requirement_file(name) for name in IMAGES}
    except ValueError as error:
        sys.exit(f"image_lists: {error}")
    if given.check:
        changed = [path.name for path, text in files.items() if not path.is_file() or path.read_text() != text]
        if changed:
            sys.exit(f"image_lists: run `make docs` and commit; these differ: {', '.join(changed)}")
        return
    REQUIREMENTS.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
