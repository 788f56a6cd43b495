"""Reads recipes from YAML; every error names the file, the line, the value and what to do."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from longhaul_core.errors import InvalidArgument, NotFound
from longhaul_core.recipe import FilterConfig, Section
from pydantic import ValidationError

from longhaul_client.recipes.document import Recipe

Location = tuple[int | str, ...]


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe; relative source paths are taken from the recipe's folder.

    Raises:
        NotFound: RECIPE_NOT_FOUND, when there is no such file.
        InvalidArgument: RECIPE_INVALID, with one violation for each fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise NotFound(
            f"no recipe at {path}", reason="RECIPE_NOT_FOUND", action="check the path; examples are in examples/"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path} cannot be read: {error}", reason="RECIPE_INVALID") from error
    return parse_recipe(text, origin=str(path), folder=path.parent.resolve())


def parse_recipe(text: str, *, origin: str, folder: Path) -> Recipe:
    """Check the text of a recipe; see read_recipe."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _syntax_error(error, origin) from error
    if node is None or not isinstance(content, dict):
        raise InvalidArgument(f"{origin}: a recipe is a mapping of keys to values", reason="RECIPE_INVALID")
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise _validation_error(error, node, origin) from None
    return _absolute(recipe, folder)


def dump_recipe(recipe: Recipe) -> str:
    """Return the resolved recipe, every default written out, as YAML."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _absolute(recipe: Recipe, folder: Path) -> Recipe:
    def resolve(location: str) -> str:
        return location if "://" in location else str(folder / Path(location).expanduser())

    sources = [
        source.model_copy(update={"path": list(map(resolve, source.paths)), "lists": list(map(resolve, source.lists))})
        for source in recipe.sources
    ]
    tasks = recipe.corpus.evaluation_tasks
    tasks = tasks.model_copy(update={"files": [resolve(file) for file in tasks.files]})
    checks = recipe.corpus.decontamination
    checks = checks.model_copy(update={"files": list(map(resolve, checks.files))})
    tokenizer = recipe.tokenizer
    if tokenizer.path:
        tokenizer = tokenizer.model_copy(update={"path": resolve(tokenizer.path)})
    filters = [item.model_copy(update={"parameters": _resolved(item, resolve)}) for item in recipe.cleaning.filters]
    cleaning = recipe.cleaning.model_copy(update={"filters": filters})
    corpus = recipe.corpus.model_copy(update={"evaluation_tasks": tasks, "decontamination": checks})
    changed = {"sources": sources, "cleaning": cleaning, "corpus": corpus, "tokenizer": tokenizer}
    return recipe.model_copy(update=changed)


def _resolved(item: FilterConfig, resolve: Callable[[str], str]) -> dict[str, Any]:
    """Parameters of a filter; files (`model`, `…_file`, `…_files`) are taken from the recipe's folder."""
    found: dict[str, Any] = dict(item.parameters)
    for name, value in item.parameters.items():
        if name == "model" or name.endswith(("_file", "_files")):
            found[name] = list(map(resolve, value)) if isinstance(value, list) else resolve(str(value))
    return found


def _syntax_error(error: yaml.YAMLError, origin: str) -> InvalidArgument:
    mark = getattr(error, "problem_mark", None)
    place = f"{origin}:{mark.line + 1}:{mark.column + 1}" if mark else origin
    problem = getattr(error, "problem", None) or str(error)
    return InvalidArgument(f"{place}: not valid YAML: {problem}", reason="RECIPE_INVALID")


def _validation_error(error: ValidationError, node: yaml.Node, origin: str) -> InvalidArgument:
    violations = []
    for fault in error.errors():
        location = _without_union_tags(fault["loc"], node)
        line = _line_of(node, location, want_key=fault["type"] == "extra_forbidden")
        violations.append((f"{origin}:{line}", _describe(fault, location)))
    message = "\n".join(f"{place}: {text}" for place, text in violations)
    return InvalidArgument(message, reason="RECIPE_INVALID", violations=violations)


def _describe(fault: Any, location: Location) -> str:
    path = ".".join(str(part) for part in location) or "recipe"
    if fault["type"] == "extra_forbidden":
        known = sorted(_known_keys(location[:-1]))
        nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; known keys: {', '.join(known)}"
        return f"unknown key {path!r}{hint}"
    if fault["type"] == "missing":
        return f"{path} is missing"
    message = fault["msg"].removeprefix("Value error, ")
    if not location or isinstance(fault["input"], dict):
        return message if path == "recipe" else f"{path}: {message}"
    return f"{path}: {message} (it is {fault['input']!r})"


def _known_keys(location: Location) -> Iterator[str]:
    for section in _sections(Recipe, location):
        yield from section.model_fields


def _sections(annotation: Any, location: Sequence[int | str]) -> Iterator[type[Section]]:
    """Yield the section types that stand at a location below a type annotation."""
    origin = get_origin(annotation)
    if origin in (list, dict):
        yield from _sections(get_args(annotation)[-1], location[1:])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _sections(member, location)
    elif isinstance(annotation, type) and issubclass(annotation, Section):
        if not location:
            yield annotation
        elif location[0] in annotation.model_fields:
            yield from _sections(annotation.model_fields[str(location[0])].annotation, location[1:])


def _without_union_tags(location: Location, node: yaml.Node) -> Location:
    """Drop the parts that pydantic adds for members of a union: they are not in the document."""
    kept: list[int | str] = []
    current: yaml.Node | None = node
    for index, part in enumerate(location):
        following = _child(current, part)
        last = index == len(location) - 1
        if following is None and not (last and isinstance(current, yaml.MappingNode)):
            continue
        kept.append(part)
        current = following
    return tuple(kept)


def _child(node: yaml.Node | None, part: int | str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == str(part)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        found: yaml.Node = node.value[part]
        return found
    return None


def _line_of(node: yaml.Node, location: Location, *, want_key: bool) -> int:
    """Return the 1-based line of the value (or key) at a location, or of its nearest parent."""
    current = node
    for index, part in enumerate(location):
        if want_key and index == len(location) - 1 and isinstance(current, yaml.MappingNode):
            for key, _ in current.value:
                if key.value == str(part):
                    return int(key.start_mark.line) + 1
        following = _child(current, part)
        if following is None:
            break
        current = following
    return int(current.start_mark.line) + 1
