"""What must hold at the end of the demo. A check returns a line, or raises AssertionError with the figures."""

import io
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
from faults import FaultRecord
from longhaul.training.v1 import training_run_pb2
from longhaul_client.report import ReportData
from longhaul_core.manifests import read_manifest
from longhaul_core.objects import open_store

REQUIRED_GAIN = 0.25
STANDARD_ERRORS = 2.0
Check = Callable[[], str]


def all_checks(data: ReportData, faults: FaultRecord, data_dir: Path) -> Iterator[tuple[str, Check]]:
    """Yield the name of each check with the check."""
    yield "worker killed and recovered", lambda: check_worker(data, faults)
    yield "node quarantined and replaced", lambda: check_node(data, faults)
    yield "all steps made", lambda: check_steps(data)
    yield "validation loss", lambda: check_loss(data)
    yield "bits per byte", lambda: check_bits_per_byte(data)
    yield "every document accounted for", lambda: check_documents(data, data_dir)


def check_worker(data: ReportData, faults: FaultRecord) -> str:
    """The killed worker was noticed, and training went on from a checkpoint."""
    assert faults.killed_pid, "no worker was killed"
    found = [incident for incident in data.run.status.incidents if incident.cause == "WORKER_KILLED"]
    assert found, f"no incident says that a worker exited; there are {[i.cause for i in data.run.status.incidents]}"
    incident = found[0]
    assert incident.HasField("recovered_time"), "the incident of the killed worker was not recovered"
    return _split(incident)


def check_node(data: ReportData, faults: FaultRecord) -> str:
    """The node with the bad GPU was taken out and the run has left it."""
    assert faults.lost_node, "no node was made to report XID 79"
    found = [incident for incident in data.run.status.incidents if incident.cause == "NODE_QUARANTINED"]
    assert found, (
        f"no incident says that a node was quarantined; there are {[i.cause for i in data.run.status.incidents]}"
    )
    incident = found[0]
    assert incident.node == faults.lost_node, f"{incident.node} was quarantined, not {faults.lost_node}"
    assert incident.HasField("recovered_time"), f"the run did not recover from the loss of {incident.node}"
    used = faults.last_nodes
    assert used, "the nodes that the run ended on were not seen"
    assert faults.lost_node not in used, f"the run ended on the quarantined node {faults.lost_node}"
    return f"{incident.node} → {', '.join(used)}; {_split(incident)}"


def _split(incident: training_run_pb2.Incident) -> str:
    return (
        f"detect {incident.detect_seconds:.2f} s (target 3), restart {incident.restart_seconds:.2f} s, "
        f"restore {incident.restore_seconds:.2f} s, replay {incident.replay_seconds:.2f} s "
        f"({incident.replay_steps} steps from {incident.resume_step})"
    )


def check_steps(data: ReportData) -> str:
    """Each step is in the metrics once, to the last."""
    status = data.run.status
    assert status.state == training_run_pb2.TRAINING_RUN_STATE_SUCCEEDED, f"the run is in state {status.state}"
    steps = [row.step for row in data.metrics]
    assert steps == list(range(1, status.total_steps + 1)), f"steps are missing or doubled: {len(steps)} rows"
    return f"{len(steps)} steps, {len(status.incidents)} faults, goodput {status.time.goodput:.1%}"


def check_loss(data: ReportData) -> str:
    """The model is far better than the frequencies of the tokens alone."""
    assert data.token_set is not None, "there is no token set"
    loss, entropy = data.run.status.validation_loss, data.token_set.validation_unigram_entropy_nats
    gain = 1 - loss / entropy
    assert gain >= REQUIRED_GAIN, (
        f"validation loss {loss:.4f} is only {gain:.1%} below the unigram entropy {entropy:.4f}"
    )
    return f"{loss:.4f} nats, {gain:.1%} below the unigram entropy {entropy:.4f} (required {REQUIRED_GAIN:.0%})"


def check_bits_per_byte(data: ReportData) -> str:
    """The last checkpoint is better than the first beyond the noise of the documents."""
    found = [difference for difference in data.differences if difference.metric == "bits_per_byte"]
    assert found, "the first and the last checkpoint were not compared"
    best = found[0]
    ratio = -best.difference / best.standard_error
    assert ratio > STANDARD_ERRORS, f"{best.difference:+.4f} ± {best.standard_error:.4f} is {ratio:.1f} standard errors"
    change = f"{best.difference:+.4f} ± {best.standard_error:.4f}"
    return f"{best.first:.4f} → {best.second:.4f}, {change}: {ratio:.0f} standard errors"


def check_documents(data: ReportData, data_dir: Path) -> str:
    """Each document that was read is kept, dropped by a named rule, failed, or a duplicate of a named one."""
    assert data.ingestion is not None, "there is no ingestion"
    assert data.corpus_build is not None, "there is no corpus build"
    assert data.token_set is not None, "there is no token set"
    read = data.ingestion.status
    ends = read.documents_kept + read.documents_dropped + read.documents_failed
    assert read.documents_read == ends, f"{read.documents_read} were read, {ends} are accounted for"
    named = sum(drop.documents for drop in read.drops)
    assert named == read.documents_dropped, f"{read.documents_dropped} were dropped, {named} with a rule"

    store = open_store((data_dir / "objects").as_uri())
    manifest = read_manifest(store, data.token_set.manifest_key)
    key = next(part.key for part in manifest.parts if part.key.endswith("accounting.parquet"))
    rows = pq.read_table(io.BytesIO(store.get(key))).to_pylist()
    assert len(rows) == read.documents_kept, f"{read.documents_kept} were kept, {len(rows)} are in the accounting"
    unexplained = [row["id"] for row in rows if row["outcome"] == "duplicate" and not row["duplicate_of"]]
    assert not unexplained, f"duplicates of nothing: {unexplained[:3]}"
    outcomes = Counter(row["outcome"] for row in rows)
    ended = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    sum_ = f"{read.documents_kept} kept + {named} dropped + {read.documents_failed} failed"
    return f"{read.documents_read} read = {sum_}; {ended}"
