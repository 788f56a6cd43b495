from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest
from longhaul_core.errors import FailedPrecondition
from longhaul_core.metrics import Metrics, start_metrics_server


def test_metrics_are_served_with_the_prefix_of_the_service() -> None:
    metrics = Metrics("ingest")
    metrics.counter("documents", "Documents read.", ["outcome"]).labels("kept").inc(3)
    metrics.gauge("shards_open", "Shards being written.").set(2)
    metrics.histogram("shard_seconds", "Time of a shard.").observe(0.2)
    server = start_metrics_server("127.0.0.1:0", metrics.registry)
    try:
        with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=60) as answer:
            page = answer.read().decode()
    finally:
        server.close()
    assert 'longhaul_ingest_documents_total{outcome="kept"} 3.0' in page
    assert "longhaul_ingest_shards_open 2.0" in page
    assert "longhaul_ingest_shard_seconds_count 1.0" in page


def test_table_shows_what_was_given_last_and_nothing_else() -> None:
    metrics = Metrics("demo")
    table = metrics.table("run_step", "Steps.", ("run",))

    def shown() -> dict[str, float]:
        samples = [sample for family in metrics.registry.collect() for sample in family.samples]
        return {sample.labels["run"]: sample.value for sample in samples}

    table.show({("a",): 1.0, ("b",): 2.0})
    table.show({("a",): 1.0, ("b",): 3.0})
    assert shown() == {"a": 1.0, "b": 3.0}
    table.show({("b",): 3.0})
    assert shown() == {"b": 3.0}
    table.show({("a",): 1.0, ("b",): 3.0})
    assert shown() == {"a": 1.0, "b": 3.0}


def test_closed_metrics_server_frees_its_port() -> None:
    first = start_metrics_server("127.0.0.1:0", Metrics("a").registry)
    first.close()
    second = start_metrics_server(first.address, Metrics("b").registry)
    second.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://{first.address}/metrics", timeout=60)


def test_metrics_port_taken_names_address_and_setting() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(FailedPrecondition) as caught:
            start_metrics_server(address, Metrics("a").registry)
    assert caught.value.reason == "ADDRESS_IN_USE"
    assert address in caught.value.message
    assert "LONGHAUL_METRICS_ADDRESS" in caught.value.action


def test_metrics_address_of_no_interface_says_why() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        start_metrics_server("203.0.113.1:0", Metrics("a").registry)
    assert caught.value.reason == "ADDRESS_UNUSABLE"


def test_metrics_on_ipv6_loopback_are_served() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        server = start_metrics_server("[::1]:0", Metrics("a").registry)
    except FailedPrecondition:
        pytest.skip("no IPv6 loopback")
    try:
        with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=60) as answer:
            assert answer.status == 200
    finally:
        server.close()
