"""The operating system part of an image: Debian packages fetched by apt and unpacked, no package manager inside.

Maintainer scripts are not run. What is needed of them is done here: users, certificates, writable folders. There is no
shell in the result.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

USER, USER_ID = "longhaul", 10001
PYTHON = "/usr/bin/python3.11"
SERVICE_PACKAGES = ("python3.11", "libstdc++6", "libgomp1", "ca-certificates")
TRAINER_PACKAGES = (*SERVICE_PACKAGES, "g++", "python3.11-dev", "dash")
NOT_NEEDED = frozenset(
    {"dpkg", "debconf", "debconf-2.0", "perl-base", "tar", "install-info", "adduser", "passwd", "mailcap"}
    | {"mime-support", "usrmerge", "coreutils", "init-system-helpers", "debianutils", "python3.11-distutils"}
)
"""Only their scripts or the package manager want them."""

_DEPENDS = re.compile(r"\s+(?:Pre)?Depends: (\S+)")
_DROPPED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/lib/python3.11/test")


def build_base(packages: Sequence[str], root: Path, downloads: Path) -> list[str]:
    """Fill an empty folder with packages and everything they need; returns `name=version` of each.

    Raises:
        RuntimeError: apt is not here, or cannot fetch.
    """
    names = closure(packages)
    downloads.mkdir(parents=True, exist_ok=True)
    files = _download(names, downloads)
    root.mkdir(parents=True)
    for folder in ("bin", "sbin", "lib", "lib64"):  # Debian's /usr merge, which a package script makes otherwise
        (root / "usr" / folder).mkdir(parents=True, exist_ok=True)
        (root / folder).symlink_to(f"usr/{folder}")
    for file in files:
        _unpack(file, root)
    for folder in _DROPPED:
        shutil.rmtree(root / folder, ignore_errors=True)
    _finish(root)
    return sorted(file.name.rsplit("_", 1)[0].replace("_", "=", 1).replace("%3a", ":") for file in files)


def closure(packages: Sequence[str]) -> list[str]:
    """Packages and all that they depend on, sorted."""
    seen: set[str] = set()
    wanted = list(packages)
    options = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]
    while wanted:
        seen.update(wanted)
        listing = _run(["apt-cache", "depends", *options, *wanted])
        found = {match[1] for line in listing.splitlines() if (match := _DEPENDS.match(line))}
        wanted = sorted(name for name in found - seen - NOT_NEEDED if not name.startswith("<"))
    return sorted(seen)


def _download(names: Sequence[str], folder: Path) -> list[Path]:
    _run(["apt-get", "download", "-qq", *names], folder)
    newest: dict[str, Path] = {}
    for file in sorted(folder.glob("*.deb"), key=lambda file: file.stat().st_mtime):
        newest[file.name.partition("_")[0]] = file
    return [newest[name] for name in names]


def _unpack(file: Path, root: Path) -> None:
    """Unpack through a pipe: `dpkg-deb -x` would replace the links of the /usr merge by folders."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(file)], stdout=subprocess.PIPE) as archive:
        done = subprocess.run(
            ["tar", "-x", "--no-same-owner", "--keep-directory-symlink", "-C", str(root)],
            stdin=archive.stdout, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode or archive.returncode:
        raise RuntimeError(f"{file.name} cannot be unpacked: {done.stderr.strip()}")


def _finish(root: Path) -> None:
    """What package scripts would do."""
    (root / "usr/bin/python").symlink_to(Path(PYTHON).name)  # commands of pods say `python`, as in other images
    etc = root / "etc"
    etc.mkdir(exist_ok=True)
    (etc / "passwd").write_text(f"root:x:0:0:root:/:/\n{USER}:x:{USER_ID}:{USER_ID}:{USER}:/home/{USER}:/\n")
    (etc / "group").write_text(f"root:x:0:\n{USER}:x:{USER_ID}:\n")
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    certificates = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    (etc / "ssl/certs").mkdir(parents=True, exist_ok=True)
    (etc / "ssl/certs/ca-certificates.crt").write_text("".join(file.read_text() for file in certificates))
    for folder in ("proc", "sys", "dev", "data", "scratch", f"home/{USER}"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tmp").mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)


def _run(command: Sequence[str], folder: Path | None = None) -> str:
    if shutil.which(command[0]) is None:
        raise RuntimeError(f"{command[0]} is not here: the base of an image comes from Debian's packages, by apt")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} …: {done.stderr.strip()[-500:]}")
    return done.stdout
