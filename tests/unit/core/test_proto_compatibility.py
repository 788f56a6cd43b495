"""The protos against those of the release before, by buf's rules; and that the rules would notice."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROTOS = Path(__file__).resolve().parents[3] / "protos"
BUF = Path(sys.executable).parent / "buf"


def breaks(protos: Path) -> str:
    """What buf finds in a folder of protos against the frozen descriptors; empty: nothing."""
    command = [BUF, "breaking", "--against", PROTOS / "previous.binpb"]
    return subprocess.run(command, cwd=protos, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("", "", ""),
        ("int32 slot = 3;", "string slot = 3;", 'changed type from "int32" to "string"'),
        ("  int32 incarnation = 4;\n", "", 'Previously present field "4"'),
    ],
)
def test_change_that_the_release_before_would_not_understand_is_found(
    tmp_path: Path, before: str, after: str, found: str
) -> None:
    copy = shutil.copytree(PROTOS, tmp_path / "protos")
    agent = copy / "longhaul" / "training" / "v1" / "agent.proto"
    text = agent.read_text()
    assert before in text
    agent.write_text(text.replace(before, after, 1) if before else text)
    said = breaks(copy)
    assert found in said if found else not said, said
