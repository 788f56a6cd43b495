from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from longhaul_core.logging import configure_logging, get_logger


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_json_line_has_event_level_service_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("ingest")
    get_logger("here").info("shard done", shard=3, path="ä")
    (line,) = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert record.pop("timestamp").endswith("Z")
    assert record == {
        "event": "shard done",
        "level": "info",
        "logger": "here",
        "service": "ingest",
        "shard": 3,
        "path": "ä",
    }


def test_level_hides_what_is_below(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("ingest", "warning")
    get_logger("here").info("hidden")
    get_logger("here").warning("shown")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["shown"]


def test_libraries_log_in_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("ingest")
    logging.getLogger("library").warning("told %s", "so")
    logging.getLogger("sqlalchemy.engine").info("hidden")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "told so"


def test_exception_is_one_line_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("ingest")
    try:
        raise ValueError("planted")
    except ValueError:
        get_logger("here").exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: planted" in json.loads(line)["exception"]


def test_console_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("ingest", "info", "console")
    get_logger("here").info("shard done", shard=3)
    text = capsys.readouterr().err
    assert "shard done" in text
    assert "shard=3" in text
