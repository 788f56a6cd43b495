"""A rule of the user's own, found by entry point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Final

from longhaul_core.errors import FailedPrecondition

from longhaul_ingest.domain.refusal import Refusal

if TYPE_CHECKING:
    from longhaul_ingest.domain.features import Features

GROUP: Final = "longhaul.filters"
Rule = Callable[[Mapping[str, Any]], bool | str]


@dataclass(frozen=True, slots=True)
class Custom:
    """Calls what the entry point `rule` of the group `longhaul.filters` names.

    The entry point is a function of the parameters beside `rule`, which returns the rule: a function from a document
    (`text`, `url`, `language`, `scores`) to True for a document that is wanted, or else why not. It must be pure:
    the same document has the same answer in every worker.
    """

    name: ClassVar[str] = "custom"

    rule: str = ""
    options: tuple[tuple[str, Any], ...] = field(default=())

    def refusals(self, text: Features) -> Iterator[Refusal]:
        """What the rule answers."""
        labels = text.labels
        document = {
            "text": text.text,
            "url": text.url,
            "language": labels.get("language"),
            "scores": dict(labels.get("scores", {})),
        }
        answer = load_rule(self.rule, self.options)(document)
        if answer is not True:
            yield Refusal(self.rule, 1, 0, answer if isinstance(answer, str) else "refused")


@lru_cache(maxsize=16)
def load_rule(name: str, options: tuple[tuple[str, Any], ...] = ()) -> Rule:
    """The rule that an installed package offers. Raises FailedPrecondition naming those that there are."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        known = ", ".join(sorted(found)) or "none"
        raise FailedPrecondition(
            f"No installed package offers a filter rule named {name!r}.",
            reason="FILTER_RULE_MISSING",
            metadata={"rule": name, "group": GROUP},
            action=f"Install it where the ingest service and its workers run; there are: {known}.",
        )
    rule: Rule = found[name].load()(**dict(options))
    return rule
