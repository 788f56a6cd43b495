"""Build an image without a container engine: Debian's packages, pip, and this tree, as an OCI archive.

The root file system is that of docker/*.Dockerfile but smaller: no shell and no package manager (the trainer has a
shell and a C++ compiler, which torch.compile calls). Import it with `ctr images import FILE`.

Usage: python scripts/build_image.py IMAGE [--output FILE] [--rootfs FOLDER] [--tag TAG]
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from images.contents import IMAGES, REQUIREMENTS, ROOT, Image, sbom
from images.debian import PYTHON, SERVICE_PACKAGES, TRAINER_PACKAGES, USER_ID, build_base
from images.oci import Config, write_archive, write_layer

SITE = "usr/lib/python3/dist-packages"
BILL = "usr/share/longhaul/sbom.cdx.json"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PORTS = {"ingest": 7401, "corpus": 7402, "training": 7403, "checkpoint": 7404, "evaluation": 7405, "gpuhealth": 7406}
METRICS_OFFSET, TRAINER_METRICS = 100, 7507
CACHES = {"TORCHINDUCTOR_CACHE_DIR": "/scratch/inductor", "TRITON_CACHE_DIR": "/scratch/triton", "HOME": "/scratch"}


def build(name: str, output: Path, tag: str, rootfs: Path | None) -> str:
    """Build an image and return the digest of its manifest; also leaves the root file system where wanted."""
    image = IMAGES[name]
    cache = ROOT / "build" / "images"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=cache) as scratch:
        work = Path(scratch)
        base, dependencies, code = work / "base", work / "dependencies", work / "code"
        _say("Debian packages")
        packages = build_base(TRAINER_PACKAGES if name == "trainer" else SERVICE_PACKAGES, base, cache / "debian")
        _say("Python packages")
        _install(dependencies, ["--no-deps", "--prefer-binary", "-r", str(REQUIREMENTS / f"{name}.txt")])
        _say("longhaul")
        _install(code, ["--no-deps", "--no-build-isolation", *map(str, _sources(image, work))])
        _write_bill(name, code, packages)
        _say("layers")
        owners = {"data": USER_ID, "scratch": USER_ID, "home/longhaul": USER_ID}
        layers = [write_layer(folder, work / f"{folder.name}.tar.gz", owners) for folder in (base, dependencies, code)]
        digest = write_archive(output, f"longhaul/{name}:{tag}", _config(name, image, tag), layers, _architecture())
        if rootfs is not None:
            for folder in (base, dependencies, code):
                shutil.copytree(folder, rootfs, symlinks=True, dirs_exist_ok=True)
            for folder, owner in owners.items():
                _own(rootfs / folder, owner)
    return digest


def _install(root: Path, arguments: list[str]) -> None:
    target = root / SITE
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile"]
    done = subprocess.run([*command, "--target", str(target), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"build_image: pip: {done.stderr.strip()[-1000:]}")
    shutil.rmtree(target / "bin", ignore_errors=True)  # launchers name the Python that built them
    for record in target.glob("*.dist-info/direct_url.json"):  # names the folder of the build
        record.unlink()


def _sources(image: Image, work: Path) -> list[Path]:
    """Copies of the packages, since building one writes into its folder."""
    copies = []
    for package in image.packages:
        copy = work / "sources" / Path(package).name
        shutil.copytree(ROOT / package, copy, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
        copies.append(copy)
    return copies


def _write_bill(name: str, code: Path, packages: list[str]) -> None:
    bill = sbom(name, _version())
    for package in packages:
        debian, version = package.split("=", 1)
        purl = f"pkg:deb/debian/{debian}@{version}"
        component = {"type": "library", "bom-ref": purl, "name": debian, "version": version, "purl": purl}
        bill["components"].append(component)
        bill["dependencies"][0]["dependsOn"].append(purl)
    (code / BILL).parent.mkdir(parents=True, exist_ok=True)
    (code / BILL).write_text(json.dumps(bill, indent=1) + "\n")


def _config(name: str, image: Image, tag: str) -> Config:
    service = name.partition("-")[0]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment["LONGHAUL_DATA_DIR"] = "/data"
    port = PORTS.get(service)
    if port is None:
        environment = {**environment, **CACHES}
    return Config(
        entrypoint=[PYTHON, "-m", image.module],
        user=f"{USER_ID}:{USER_ID}",
        environment=environment,
        ports=[TRAINER_METRICS] if port is None else [port, port + METRICS_OFFSET],
        folder="/data" if port is not None else "/scratch",
        labels={
            "org.opencontainers.image.title": f"longhaul-{name}",
            "org.opencontainers.image.version": tag,
            "org.opencontainers.image.licenses": "Apache-2.0",
        },
    )


def _own(folder: Path, owner: int) -> None:
    try:
        shutil.chown(folder, owner, owner)
    except PermissionError:
        folder.chmod(0o777)  # not root: the archive says who owns it, this copy is for trying


def _architecture() -> str:
    return ARCHITECTURES[platform.machine()]


def _version() -> str:
    document = tomllib.loads((ROOT / "libs" / "core" / "pyproject.toml").read_text())
    return str(document["project"]["version"])


def _say(what: str) -> None:
    print(f"build_image: {what}", flush=True)  # noqa: T201


def main() -> None:
    """Build one image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", choices=sorted(IMAGES))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rootfs", type=Path, help="also leave the root file system here")
    parser.add_argument("--tag", default=_version())
    given = parser.parse_args()
    output = given.output or ROOT / "build" / "images" / f"longhaul-{given.image}.tar"
    try:
        digest = build(given.image, output, given.tag, given.rootfs)
    except RuntimeError as error:
        sys.exit(f"build_image: {error}")
    _say(f"{output} ({output.stat().st_size / 1e6:.0f} MB), manifest {digest}")


if __name__ == "__main__":
    main()
