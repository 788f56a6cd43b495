"""What each image contains of Python: computed from the packages' pyproject.toml and the lock, never by hand.

The closure follows the metadata of what is installed, with the markers of this platform; every version must be
the one of requirements.lock.
"""

from __future__ import annotations

import re
import tomllib
import uuid
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
REQUIREMENTS = ROOT / "docker" / "requirements"


@dataclass(frozen=True, slots=True)
class Image:
    """An image: its own packages in this tree, their extras, and the module that it runs."""

    packages: tuple[str, ...]
    module: str
    extras: tuple[tuple[str, str], ...] = ()


def _service(name: str, *core_extras: str) -> Image:
    packages = ("libs/protos", "libs/core", f"services/{name}")
    return Image(packages, f"longhaul_{name}", tuple(("longhaul-core", extra) for extra in core_extras))


IMAGES = {
    "ingest": _service("ingest", "postgresql"),
    "corpus": _service("corpus", "postgresql"),
    "training": _service("training", "postgresql", "kubernetes"),
    "checkpoint": _service("checkpoint", "postgresql"),
    "evaluation": _service("evaluation", "postgresql"),
    "gpuhealth": _service("gpuhealth", "postgresql", "kubernetes"),
    "ingest-ray": _service("ingest", "postgresql", "ray"),
    "corpus-ray": _service("corpus", "postgresql", "ray"),
    "trainer": Image(
        ("libs/protos", "libs/core", "services/trainer"), "longhaul_trainer.agent", (("longhaul-trainer", "score"),)
    ),
}


@dataclass(frozen=True, slots=True, order=True)
class Pin:
    """One distribution of the lock."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def lock() -> dict[str, Pin]:
    """The pins of requirements.lock by canonical name."""
    pins = [Pin(*line.split("==")) for line in LOCK.read_text().split() if not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pins}


def contents(image: Image) -> list[Pin]:
    """Every distribution that an image installs from the index, sorted.

    Raises:
        ValueError: Something needed is not in the lock, or not installed here, so that the closure cannot be known.
    """
    pins, wanted = lock(), _own_requirements(image)
    seen: dict[str, set[str]] = {}
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if requirement.name.startswith("longhaul-"):
            continue
        extras = {"", *requirement.extras}
        if extras <= seen.get(name, set()):
            continue
        seen[name] = extras | seen.get(name, set())
        if name not in pins:
            raise ValueError(f"{requirement} is needed by the image but is not in requirements.lock")
        wanted += [
            found for found in _requirements_of(pins[name], seen[name]) if not _brought_by_torch(name, found, pins)
        ]
    return sorted(pins[name] for name in seen)


def _brought_by_torch(name: str, requirement: Requirement, pins: dict[str, Pin]) -> bool:
    """A CUDA build of torch pins its NVIDIA libraries itself; the lock leaves them open, so that CPU builds fit too."""
    return name == "torch" and canonicalize_name(requirement.name) not in pins


def _own_requirements(image: Image) -> list[Requirement]:
    found = []
    for package in image.packages:
        project = tomllib.loads((ROOT / package / "pyproject.toml").read_text())["project"]
        texts = list(project.get("dependencies", ()))
        for name, extra in image.extras:
            if name == project["name"]:
                texts += project["optional-dependencies"][extra]
        found += [Requirement(text) for text in texts]
    return found


def _requirements_of(pin: Pin, extras: set[str]) -> list[Requirement]:
    try:
        texts = metadata.requires(pin.name) or []
    except metadata.PackageNotFoundError:
        raise ValueError(f"{pin} is not installed here: make setup") from None
    requirements = [Requirement(text) for text in texts]
    return [r for r in requirements if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in extras)]


def requirement_file(name: str) -> str:
    """Content of docker/requirements/NAME.txt."""
    lines = "".join(f"{pin}\n" for pin in contents(IMAGES[name]))
    return f"# What the image longhaul-{name} installs from the index: made by scripts/image_lists.py.\n{lines}"


def sbom(name: str, version: str) -> dict[str, Any]:
    """The CycloneDX 1.6 bill of materials of an image's Python part."""
    image = IMAGES[name]
    own = [f"longhaul-{Path(package).name}" for package in image.packages]
    pins = [*contents(image), *(Pin(package, version) for package in own)]
    identity = uuid.uuid5(uuid.NAMESPACE_URL, "\n".join([f"longhaul-{name}", version, *map(str, pins)]))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{identity}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": f"longhaul-{name}",
                "name": f"longhaul-{name}",
                "version": version,
            }
        },
        "components": [_component(pin) for pin in pins],
        "dependencies": [{"ref": f"longhaul-{name}", "dependsOn": [_purl(pin) for pin in pins]}],
    }


def _component(pin: Pin) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _purl(pin),
        "name": pin.name,
        "version": pin.version,
        "purl": _purl(pin),
    }
    licence = "Apache-2.0" if pin.name.startswith("longhaul-") else _licence(pin)
    if licence:
        expression = re.fullmatch(r"[A-Za-z0-9.+() -]+", licence) is not None and " " not in licence.replace(
            " OR ", ""
        ).replace(" AND ", "")
        component["licenses"] = [{"expression": licence}] if expression else [{"license": {"name": licence}}]
    return component


def _licence(pin: Pin) -> str:
    found = metadata.metadata(pin.name)
    if expression := found.get("License-Expression"):
        return str(expression)
    classifiers = [line.rpartition(" :: ")[2] for line in found.get_all("Classifier") or () if "License" in line]
    first = (found.get("License") or "").strip().splitlines()
    return classifiers[0] if classifiers else first[0][:80] if first else ""


def _purl(pin: Pin) -> str:
    return f"pkg:pypi/{canonicalize_name(pin.name)}@{pin.version}"
