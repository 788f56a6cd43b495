"""Rules files with faults: the line, the column, the nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest
from longhaul_core.errors import InvalidArgument
from longhaul_gpuhealth.adapters.rules_source import RulesSource
from longhaul_gpuhealth.domain.rulefile import RulesFault, default_rules, default_rules_text, parse_rules

GOOD = """version: "1"
rules:
  - id: hot
    signal: DCGM_FI_DEV_GPU_TEMP
    when: {above: 83, for: 30s}
    severity: warning
    action: event
    description: hot
"""


@pytest.mark.parametrize(
    ("change", "to", "says"),
    [
        ("severity", "severty", "line 6, column 5: rules.0.severty: unknown key 'severty'; did you mean 'severity'?"),
        ("above", "abov", "line 5, column 12: rules.0.when.abov: unknown key 'abov'; did you mean 'above'?"),
        ("for: 30s", "for: 30 seconds", "line 5, column 23: rules.0.when.for: '30 seconds' is no duration"),
        ("for: 30s", "window: 30s", "line 5, column 5: rules.0.when: 'window' does not go with 'above'"),
        ("above: 83, ", "", "needs exactly one of codes, above"),
        ("above: 83", "above: 83, mask: 4", "it has above and mask"),
        ("when: {above: 83, for: 30s}", "when: {increase_above: 5}", "'increase_above' needs 'window'"),
        ("severity: warning", "severity: bad", "line 6, column 5: rules.0.severity: Input should be 'info'"),
        ("    signal: DCGM_FI_DEV_GPU_TEMP\n", "", "'above' needs a 'signal'"),
        ("above: 83, for: 30s", "codes: [79]", "'codes' takes no 'signal'"),
        ('version: "1"\n', "", "line 1, column 1: version: Field required"),
        ("above: 83", "above: .nan", "rules.0.when.above: Input should be a finite number"),
        ("id: hot", "id: Hot One", "line 3, column 5: rules.0.id: String should match pattern"),
        (
            "    severity: warning",
            "    severity: warning\n    severity: error",
            "line 7, column 5: 'severity' is given twice",
        ),
        ("when: {above", "when: {above: [", "line 5"),
    ],
)
def test_fault_is_named_with_its_place(change: str, to: str, says: str) -> None:
    assert change in GOOD
    with pytest.raises(RulesFault) as caught:
        parse_rules(GOOD.replace(change, to, 1))
    assert says in str(caught.value)


def test_repeats_of_unknown_rule_names_the_nearest() -> None:
    text = GOOD + GOOD.partition("rules:\n")[2].replace("id: hot", "id: often").replace(
        "    signal: DCGM_FI_DEV_GPU_TEMP\n", ""
    ).replace("{above: 83, for: 30s}", "{repeats_of: [hott], at_least: 2, window: 1h}")
    with pytest.raises(RulesFault, match="repeats 'hott', which is no other rule; did you mean 'hot'"):
        parse_rules(text)


@pytest.mark.parametrize("text", ["", "[]", "just words", "a: [", "\x00"])
def test_text_that_is_no_rules_file_is_refused(text: str) -> None:
    with pytest.raises(RulesFault):
        parse_rules(text)


def test_every_fault_is_reported_at_once() -> None:
    with pytest.raises(RulesFault) as caught:
        parse_rules(GOOD.replace("severity", "severty").replace("above", "abov"))
    assert len(str(caught.value).splitlines()) >= 3


def test_shipped_rules_load_and_name_all_series_they_need() -> None:
    rules = default_rules()
    assert len({rule.id for rule in rules.rules}) == len(rules.rules) >= 25
    assert {"DCGM_FI_DEV_XID_ERRORS", "DCGM_FI_DEV_ROW_REMAP_FAILURE"} <= rules.wanted


def test_file_with_a_fault_leaves_the_old_rules_in_force(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(GOOD)
    source = RulesSource.open(path)
    assert source.rules.version == "1"
    assert not source.reload()
    path.write_text(GOOD.replace("above", "abov").replace('"1"', '"2"'))
    assert not source.reload()
    assert source.rules.version == "1"
    assert "did you mean 'above'" in source.load_error
    path.write_text(GOOD.replace("83", "85").replace('"1"', '"3"'))
    assert source.reload()
    assert (source.rules.version, source.load_error) == ("3", "")
    path.unlink()
    assert not source.reload()
    assert source.rules.version == "3"


def test_file_with_a_fault_at_start_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(default_rules_text().replace("action: drain", "acton: drain", 1))
    with pytest.raises(InvalidArgument) as caught:
        RulesSource.open(path)
    assert any("did you mean 'action'" in text for _, text in caught.value.violations)
    with pytest.raises(InvalidArgument):
        RulesSource.open(tmp_path / "missing.yaml")
