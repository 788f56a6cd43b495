"""What the command prints of texts that it did not write itself."""

from __future__ import annotations

import pytest
from longhaul_client.cli.output import print_error, print_labelled, print_table
from longhaul_core.errors import FailedPrecondition

GLOO = (
    "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Connection closed by peer [127.0.0.1]:25186"
)
TEXTS = (GLOO, "[bold]not bold[/bold]", "a :smile: is no face", "ends with \\")


@pytest.mark.parametrize("text", TEXTS)
def test_texts_of_others_are_printed_as_they_stand(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["CAUSE", "MESSAGE"], [("PEER_FAILED", text)], empty="none")
    print_labelled("warning:", text, style="yellow")
    assert capsys.readouterr().out.count(text) == 2
    print_error(FailedPrecondition(text, reason="X", action=f"look at {text}"))
    assert capsys.readouterr().err.count(text) == 2
