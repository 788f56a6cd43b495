"""The table of the shipped GPU health rules in docs/gpu-health.md."""

from pathlib import Path

from longhaul_gpuhealth.domain.model import Remedy
from longhaul_gpuhealth.domain.rulefile import default_rules
from longhaul_gpuhealth.domain.rules import Rule, describe, signals_of

BEGIN, END = "<!-- rules: generated -->\n", "<!-- end of rules -->"


def with_rules(page: Path) -> str:
    """The page with its table as the rules are now."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    rules = default_rules()
    head = [
        f"Version {rules.version}.",
        "",
        "| rule | signal | fires when | severity → action | remedy |",
        "|---|---|---|---|---|",
    ]
    return before + BEGIN + "\n".join([*head, *map(_row, rules.rules)]) + "\n" + END + after


def _row(rule: Rule) -> str:
    signals = "<br>".join(f"`{name}`" for name in signals_of(rule.when) if not describe(rule.when).startswith("XID"))
    conditions = [describe(rule.when), *(f"`{pattern}`: {describe(when)}" for pattern, when in rule.overrides)]
    action = rule.action.name.lower().replace("_", " ") + (" when idle" if rule.when_idle else "")
    if rule.action.takes_node_out:
        action += ", by checkpoint" if rule.computes else ", at once"
    remedy = "" if rule.remedy is Remedy.NONE else rule.remedy.name.lower()
    shown = "<br>".join(conditions).replace("|", "\\|")
    return f"| `{rule.id}` | {signals} | {shown} | {rule.severity.name.lower()} → {action} | {remedy} |"
