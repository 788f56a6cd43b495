"""Generate the pages that follow from the code: recipe, settings, metrics, the table of GPU health, dashboards.

Usage: python scripts/generate_docs.py [--check]

`--check` fails, naming the pages, when the committed ones differ.
"""

import argparse
import importlib
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from dashboards import dashboard_pages
from longhaul_client.recipes import Recipe
from longhaul_core.recipe import Section
from longhaul_core.settings import ENVIRONMENT_PREFIX, GRPC_PORTS, ServiceSettings
from metrics_catalogue import metrics_page
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rules_table import with_rules

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD_FOLDER = ROOT / "charts" / "longhaul" / "files" / "dashboards"

RECIPE_HEAD = """\
# Recipe reference

One YAML document states a whole pipeline. Unknown keys are errors that name the nearest known key and the line. Paths
are relative to the recipe. This page is generated from the code by `make docs`.

"""

SETTINGS_HEAD = f"""\
# Settings reference

Each service reads its settings once, at start, from environment variables with the prefix `{ENVIRONMENT_PREFIX}`;
`longhaul up` and the charts set them. This page is generated from the code by `make docs`.

"""


def main() -> None:
    """Write the pages, or check that they are what would be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    pages = {
        ROOT / "docs" / "recipe.md": recipe_page(),
        ROOT / "docs" / "settings.md": settings_page(),
        ROOT / "docs" / "metrics.md": metrics_page(),
        ROOT / "docs" / "gpu-health.md": with_rules(ROOT / "docs" / "gpu-health.md"),
        **{DASHBOARD_FOLDER / name: text for name, text in dashboard_pages().items()},
    }
    if check:
        changed = [str(path.relative_to(ROOT)) for path, text in pages.items() if not _is(path, text)]
        if changed:
            sys.exit(f"generate_docs: run `make docs` and commit; these differ: {', '.join(changed)}")
        return
    for path, text in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def recipe_page() -> str:
    """Return the reference of all recipe keys, one table a section."""
    parts = [RECIPE_HEAD]
    for path, section in _sections(Recipe, ""):
        title = f"`{path}`" if path else "The document"
        parts.append(f"## {title}\n\n{_purpose(section)}\n\n{_table(section.model_fields)}\n")
    return "\n".join(parts)


def settings_page() -> str:
    """Return the reference of the settings of all services."""
    parts = [SETTINGS_HEAD, f"## All services\n\n{_table(ServiceSettings.model_fields, ENVIRONMENT_PREFIX)}\n"]
    for service in GRPC_PORTS:
        module = importlib.import_module(f"longhaul_{service}.settings")
        own = _own_fields(module)
        table = _table(own, ENVIRONMENT_PREFIX) if own else "Only those of all services."
        parts.append(f"## {service}\n\n{table}\n")
    return "\n".join(parts)


def _own_fields(module: Any) -> dict[str, FieldInfo]:
    for member in vars(module).values():
        if (
            isinstance(member, type)
            and issubclass(member, ServiceSettings)
            and member.service != ServiceSettings.service
        ):
            return {k: v for k, v in member.model_fields.items() if k not in ServiceSettings.model_fields}
    raise TypeError(f"{module.__name__} has no settings class")


def _sections(section: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, section
    for name, field in section.model_fields.items():
        for inner, suffix in _inner_sections(field.annotation):
            yield from _sections(inner, f"{path}.{name}{suffix}".lstrip("."))


def _inner_sections(annotation: Any) -> Iterator[tuple[type[Section], str]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation, ""
    elif get_origin(annotation) is list:
        for inner, _ in _inner_sections(get_args(annotation)[0]):
            yield inner, "[]"


def _purpose(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")


def _table(fields: dict[str, FieldInfo], prefix: str = "") -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        key = f"{prefix}{name.upper()}" if prefix else name
        cells = (f"`{key}`", _type(field), _default(field), (field.description or "").replace("|", "\\|"))
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _type(field: FieldInfo) -> str:
    bounds = [f"{symbol} {value}" for symbol, value in _bounds(field)]
    name = _type_name(field.annotation)
    return f"{name}, {' and '.join(bounds)}" if bounds else name


def _bounds(field: FieldInfo) -> Iterator[tuple[str, Any]]:
    for item in field.metadata:
        for attribute, symbol in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
            value = getattr(item, attribute, None)
            if value is not None:
                yield symbol, value


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (Union, UnionType):
        return " or ".join(_type_name(member) for member in get_args(annotation))
    if origin is list:
        return f"list of {_type_name(get_args(annotation)[0])}"
    if origin is dict:
        return f"mapping to {_type_name(get_args(annotation)[1])}"
    if hasattr(annotation, "__metadata__"):
        return _type_name(get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{member.value}`" for member in annotation)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "section"
    return str(getattr(annotation, "__name__", annotation)).replace("NoneType", "nothing")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.default if field.default is not PydanticUndefined else field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        return ""
    if isinstance(default, Enum):
        default = default.value
    if isinstance(default, list) and default and isinstance(default[0], BaseModel):
        default = [item.model_dump(mode="json", exclude_defaults=True) for item in default]
    shown = re.sub(r"SecretStr\('(.*)'\)", r"\1", str(default))
    return f"`{shown}`" if shown else ""


if __name__ == "__main__":
    main()
