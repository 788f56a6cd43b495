"""Templates of repair Jobs: what is made of them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from longhaul_core.clock import SystemClock
from longhaul_core.cluster.fake import FakeCluster
from longhaul_core.errors import InvalidArgument
from longhaul_gpuhealth.adapters.hooks import HookCall
from longhaul_gpuhealth.adapters.job_hook import CAUSE, load_job_template
from longhaul_gpuhealth.domain.model import Remedy
from longhaul_gpuhealth.settings import GpuHealthSettings

TEMPLATE = """
apiVersion: batch/v1
kind: Job
metadata: {namespace: repairs, labels: {team: lab}}
spec:
  template:
    spec:
      containers:
        - name: reset
          image: tools:1
          command: [reset, --gpus, "@gpu_uuids@", "--on=@node@"]
          env: [{name: TRIES, value: "3"}, {name: LONGHAUL_NODE, value: wrong}]
"""
CALL = HookCall("gpu-7", "AB12cd34ef", Remedy.RESET, "XID 48; $(rm -rf /)", ("GPU-1-2", "GPU-3; reboot"))


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def test_job_is_bound_to_its_node_and_told_what_it_is_for(tmp_path: Path) -> None:
    template = load_job_template(write(tmp_path, TEMPLATE))
    job: Any = template.render(CALL)
    assert (job["metadata"]["namespace"], job["metadata"]["name"]) == ("repairs", "gpuhealth-reset-ab12cd34")
    assert job["metadata"]["labels"] == {
        "team": "lab",
        "longhaul.dev/managed-by": "gpuhealth",
        "longhaul.dev/kind": "repair",
    }
    assert job["metadata"]["annotations"] == {CAUSE: CALL.cause}
    pod = job["spec"]["template"]["spec"]
    assert (pod["nodeName"], pod["restartPolicy"], job["spec"]["backoffLimit"]) == ("gpu-7", "Never", 0)
    assert pod["tolerations"] == [{"operator": "Exists"}]
    [container] = pod["containers"]
    assert container["command"] == ["reset", "--gpus", "GPU-1-2", "--on=gpu-7"], "what is no GPU's id is left out"
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment["TRIES"] == "3"
    assert environment["LONGHAUL_NODE"] == "gpu-7"
    assert environment["LONGHAUL_CAUSE"] == CALL.cause
    assert environment["LONGHAUL_GPU_UUIDS"] == "GPU-1-2"
    assert template.render(CALL) == job, "the template is left as it is"


def test_own_settings_of_the_job_are_kept(tmp_path: Path) -> None:
    given = yaml.safe_load(TEMPLATE)
    given["spec"] |= {"backoffLimit": 3, "ttlSecondsAfterFinished": 60}
    given["spec"]["template"]["spec"] |= {"restartPolicy": "OnFailure", "tolerations": [{"key": "x"}]}
    job: Any = load_job_template(write(tmp_path, yaml.safe_dump(given))).render(CALL)
    assert (job["spec"]["backoffLimit"], job["spec"]["ttlSecondsAfterFinished"]) == (3, 60)
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "OnFailure"
    assert pod["tolerations"] == [{"key": "x"}, {"operator": "Exists"}]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "line 1"),
        ("a: 1\na: 2\n", "'a' is given twice"),
        ("[]", "no mapping"),
        (TEMPLATE.replace("kind: Job", "kind: Pod"), "'Pod', not batch/v1 and Job"),
        (TEMPLATE.replace("containers", "initContainers"), "containers is missing or empty"),
        (TEMPLATE.replace("image: tools:1", "tty: true"), "each needs an image"),
        (TEMPLATE.replace("@node@", "@nod@"), "unknown placeholder @nod@; did you mean @node@"),
        (TEMPLATE.replace("@node@", "@cause@"), "unknown placeholder @cause@; known are node"),
    ],
)
def test_template_with_a_fault_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match="Job template") as caught:
        load_job_template(write(tmp_path, text))
    assert says in str(caught.value)


def test_cluster_without_jobs_says_what_to_use_instead(tmp_path: Path) -> None:
    settings = GpuHealthSettings(data_dir=tmp_path, reset_job_template=write(tmp_path, TEMPLATE))
    with pytest.raises(InvalidArgument, match="runs no Jobs") as caught:
        settings.open_hooks(FakeCluster(SystemClock()))
    assert "reset_pod_template" in caught.value.action
    assert Remedy.RESET in settings.policy.repair.hooks
