from __future__ import annotations

from pathlib import Path

import pytest
from longhaul_core.errors import InvalidArgument
from longhaul_core.settings import ServiceSettings, load_settings, refuse_misspelt
from pydantic import ValidationError


class IngestSettings(ServiceSettings):
    service = "ingest"
    records_per_shard: int = 1000


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("LONGHAUL_")]:
        monkeypatch.delenv(name)


def test_defaults_are_loopback_on_the_ports_of_the_service() -> None:
    settings = load_settings(IngestSettings)
    assert (settings.listen_address, settings.metrics_address) == ("127.0.0.1:7401", "127.0.0.1:7501")
    assert settings.training_address == "127.0.0.1:7403"
    assert not settings.allow_insecure


def test_environment_overrides_defaults_and_arguments_override_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGHAUL_LISTEN_ADDRESS", "127.0.0.1:9")
    monkeypatch.setenv("LONGHAUL_RECORDS_PER_SHARD", "7")
    settings = load_settings(IngestSettings)
    assert (settings.listen_address, settings.records_per_shard) == ("127.0.0.1:9", 7)
    assert IngestSettings(listen_address="127.0.0.1:10").listen_address == "127.0.0.1:10"


def test_places_follow_the_data_folder_unless_given(tmp_path: Path) -> None:
    settings = IngestSettings(data_dir=tmp_path)
    assert settings.resolved_database_url == f"sqlite:///{tmp_path}/ingest/ingest.sqlite3"
    assert settings.resolved_object_store_url == f"file://{tmp_path}/objects"
    assert settings.resolved_cluster_url == f"local://{tmp_path}/cluster"
    assert settings.resolved_workers >= 1
    given = IngestSettings(
        data_dir=tmp_path, database_url="postgresql://h/d", object_store_url="s3://b/p", cluster_url="kubernetes://ns"
    )
    assert given.resolved_database_url == "postgresql://h/d"
    assert given.resolved_object_store_url == "s3://b/p"
    assert given.resolved_cluster_url == "kubernetes://ns"


def test_settings_are_frozen_and_know_their_keys() -> None:
    settings = IngestSettings()
    with pytest.raises(ValidationError):
        settings.workers = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        IngestSettings(worker=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LONGHAUL_WORKERS", "-1"),
        ("LONGHAUL_ENGINE", "spark"),
        ("LONGHAUL_LISTEN_ADDRESS", "no-port"),
        ("LONGHAUL_METRICS_ADDRESS", "127.0.0.1:70000"),
        ("LONGHAUL_TLS_KEY", "/only/the/key"),
    ],
)
def test_wrong_value_is_an_invalid_argument(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidArgument) as caught:
        load_settings(IngestSettings)
    assert variable.removeprefix("LONGHAUL_").lower() in caught.value.message.lower()
    assert caught.value.reason == "SETTINGS_INVALID"


def test_token_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGHAUL_API_TOKEN", "secret-word")
    settings = load_settings(IngestSettings)
    assert "secret-word" not in repr(settings)
    assert settings.api_token.get_secret_value() == "secret-word"


def test_near_miss_of_a_setting_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidArgument) as caught:
        refuse_misspelt(IngestSettings, {"LONGHAUL_RECORD_PER_SHARD": "1"})
    assert caught.value.action == "did you mean LONGHAUL_RECORDS_PER_SHARD?"


def test_variables_of_others_are_let_be() -> None:
    refuse_misspelt(
        IngestSettings,
        {
            "LONGHAUL_INGEST_SERVICE_HOST": "10.0.0.1",
            "LONGHAUL_INGEST_PORT": "tcp://10.0.0.1:7401",
            "LONGHAUL_INGEST_PORT_7401_TCP_ADDR": "10.0.0.1",
            "LONGHAUL_SCRAPE_INTERVAL_SECONDS": "5",
            "LONGHAUL_REQUIRE_PROGRAMS": "1",
            "LISTEN_ADRESS": "x",
        },
    )
