"""The rules in force: shipped, or from a file that is read again when it changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from longhaul_core.errors import InvalidArgument
from longhaul_core.logging import get_logger

from longhaul_gpuhealth.domain.rulefile import RulesFault, default_rules, parse_rules
from longhaul_gpuhealth.domain.rules import RuleSet

MAXIMUM_BYTES = 1 << 20

log = get_logger(__name__)


@dataclass(slots=True)
class RulesSource:
    """Holds the newest rules that were right; a file with a fault leaves them in force and says why."""

    path: Path | None
    rules: RuleSet = field(default_factory=default_rules)
    load_error: str = ""
    _seen: tuple[int, int, int] | None = None

    @classmethod
    def open(cls, path: Path | None) -> RulesSource:
        """Load the rules at start. Raises `InvalidArgument` with every fault of the file."""
        source = cls(path)
        source.reload()
        if source.load_error:
            raise InvalidArgument(
                f"rules file {path}: {source.load_error}",
                reason="RULES_INVALID",
                violations=[("rules_file", line) for line in source.load_error.splitlines()],
                action="correct the file, or unset LONGHAUL_RULES_FILE to use the shipped rules",
            )
        return source

    def reload(self) -> bool:
        """Read the file again if it changed; whether other rules are in force now."""
        if self.path is None:
            return False
        try:
            stat = self.path.stat()
            mark = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if mark == self._seen:
                return False
            self._seen = mark
            with self.path.open(encoding="utf-8") as file:
                text = file.read(MAXIMUM_BYTES + 1)
            if len(text) > MAXIMUM_BYTES:
                raise RulesFault(f"the file has more than {MAXIMUM_BYTES} characters")
            rules = parse_rules(text)
        except (OSError, UnicodeDecodeError, RulesFault) as error:
            self.load_error = str(error)
            log.error("rules not loaded", path=str(self.path), error=self.load_error)
            return False
        changed = rules != self.rules
        self.rules, self.load_error = rules, ""
        if changed:
            log.info("rules loaded", path=str(self.path), version=rules.version, rules=len(rules.rules))
        return changed
