"""The API without any node: what is accepted, refused, shown, and that asking twice changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct, Value
from grpc_health.v1 import health_pb2, health_pb2_grpc
from longhaul.training.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    experiment_pb2,
    experiment_pb2_grpc,
    plan_pb2,
    plan_pb2_grpc,
    project_pb2,
    project_pb2_grpc,
    task_pb2,
    task_pb2_grpc,
    training_run_pb2,
    training_run_pb2_grpc,
)
from longhaul_core.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    LonghaulError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)
from longhaul_core.rpc.client import connect, rpc_errors
from longhaul_core.rpc.server import running_service
from longhaul_training.app import SERVICES, build
from longhaul_training.settings import TrainingSettings
from training_harness import TOKEN_SET, Upstream, config

PARENT = "projects/default"
RUN = "projects/default/trainingRuns/r"


@asynccontextmanager
async def serving(folder: Path, **more: Any) -> AsyncIterator[grpc.aio.Channel]:
    """The service in this process, on the folder's database."""
    upstream = Upstream()
    settings = TrainingSettings(
        data_dir=folder,
        listen_address="127.0.0.1:0",
        metrics_address="",
        corpus_address=upstream.address,
        gpuhealth_address=upstream.address,
        checkpoint_address=upstream.address,
        shutdown_grace_seconds=1.0,
        **more,
    )
    async with running_service(settings, build) as address, connect(address) as opened:
        yield opened
    upstream.stop()


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(tmp_path) as opened:
        yield opened


async def call(method: Any, request: Any) -> Any:
    with rpc_errors():
        return await method(request)


def struct(values: dict[str, Any]) -> Struct:
    message = Struct()
    message.update(values)
    return message


def run_request(run_id: str = "r", **changes: Any) -> training_run_pb2.CreateTrainingRunRequest:
    fields: dict[str, Any] = {
        "trainer_config": struct(config()),
        "token_set": TOKEN_SET,
        "resources": training_run_pb2.RunResources(nodes=2, gpus_per_node=1),
        **changes,
    }
    spec = training_run_pb2.TrainingRunSpec(**fields)
    return training_run_pb2.CreateTrainingRunRequest(parent=PARENT, training_run_id=run_id, spec=spec)


async def test_health_and_every_service_answer(channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in SERVICES:
        answer = await call(health.Check, health_pb2.HealthCheckRequest(service=service.full_name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_same_run_twice_is_one_and_a_changed_one_is_refused_with_its_difference(
    channel: grpc.aio.Channel,
) -> None:
    runs: Any = training_run_pb2_grpc.TrainingRunServiceStub(channel)
    first = await call(runs.CreateTrainingRun, run_request(recipe="a: 1"))
    again = await call(runs.CreateTrainingRun, run_request(recipe="a: 1  # the same"))
    assert again.metadata.uid == first.metadata.uid
    assert first.spec.trainer_config["optimizer"]["weight_decay"] == 0.1, "defaults are resolved"
    with pytest.raises(AlreadyExists) as caught:
        await call(runs.CreateTrainingRun, run_request(trainer_config=struct(config(seed=4))))
    assert caught.value.reason == "SPEC_DIFFERS"
    assert caught.value.metadata["trainer_config.seed"] == "3 -> 4"


async def test_run_keeps_the_image_of_the_installation_that_accepted_it(tmp_path: Path) -> None:
    old, new, own = (f"registry.example/trainer@sha256:{digit * 64}" for digit in "123")
    hot = experiment_pb2.Variant(id="hot", path="optimizer.learning_rate", value=Value(number_value=0.1))
    spec = experiment_pb2.ExperimentSpec(baseline=run_request().spec, variants=[hot])
    compare = experiment_pb2.CreateExperimentRequest(parent=PARENT, experiment_id="lr", spec=spec)
    named = run_request("own", resources=training_run_pb2.RunResources(nodes=2, gpus_per_node=1, image=own))
    for image, created in ((old, "r"), (new, "later")):
        async with serving(tmp_path, trainer_image=image) as channel:
            runs: Any = training_run_pb2_grpc.TrainingRunServiceStub(channel)
            experiments: Any = experiment_pb2_grpc.ExperimentServiceStub(channel)
            for request in (run_request("r"), run_request(created), named):
                await call(runs.CreateTrainingRun, request)
            await call(experiments.CreateExperiment, compare)
            listed = await call(runs.ListTrainingRuns, training_run_pb2.ListTrainingRunsRequest(parent=PARENT))
    kept = {run.metadata.name.rpartition("/")[2]: run.spec.resources.image for run in listed.training_runs}
    assert kept == {"r": old, "lr-baseline": old, "lr-hot": old, "later": new, "own": own}


@pytest.mark.parametrize(
    ("changes", "field", "text"),
    [
        ({"trainer_config": struct({**config(), "stepz": 1})}, "spec.trainer_config.stepz", "Extra inputs"),
        ({"trainer_config": struct({**config(), "steps": 0})}, "spec.trainer_config.steps", "greater than 0"),
        ({"token_set": "words"}, "spec.token_set", "is not a name of the form"),
        ({"resources": training_run_pb2.RunResources(nodes=3)}, "spec.trainer_config", "not a multiple"),
        ({"resources": training_run_pb2.RunResources(nodes=-1)}, "spec.resources.nodes", "out of range"),
        (
            {"trainer_config": struct({**config(), "layout": {"tensor_parallel": 4}})},
            "spec.trainer_config",
            "= 0, but there are 2 GPUs",
        ),
    ],
)
async def test_run_that_can_never_work_is_refused_by_field(
    channel: grpc.aio.Channel, changes: dict[str, Any], field: str, text: str
) -> None:
    runs: Any = training_run_pb2_grpc.TrainingRunServiceStub(channel)
    with pytest.raises(InvalidArgument) as caught:
        await call(runs.CreateTrainingRun, run_request(**changes))
    assert any(name == field and text in description for name, description in caught.value.violations)
    with pytest.raises(NotFound):
        await call(runs.GetTrainingRun, training_run_pb2.GetTrainingRunRequest(name=RUN))


async def test_watch_shows_the_run_waiting_then_cancelled_and_events_tell_why(channel: grpc.aio.Channel) -> None:
    runs: Any = training_run_pb2_grpc.TrainingRunServiceStub(channel)
    created = await call(runs.CreateTrainingRun, run_request())
    reasons = []
    watching = runs.WatchTrainingRuns(training_run_pb2.WatchTrainingRunsRequest(name=RUN))
    async for change in watching:
        if change.training_run.status.state == training_run_pb2.TRAINING_RUN_STATE_WAITING_FOR_INPUTS:
            reasons.append(change.training_run.status.pending_reason)
            await call(runs.CancelTrainingRun, training_run_pb2.CancelTrainingRunRequest(name=RUN))
        if change.training_run.status.state == training_run_pb2.TRAINING_RUN_STATE_CANCELLED:
            break
    watching.cancel()
    assert "not there yet" in reasons[0]
    await call(runs.CancelTrainingRun, training_run_pb2.CancelTrainingRunRequest(name=RUN))
    for verb, request in (
        (runs.PauseTrainingRun, training_run_pb2.PauseTrainingRunRequest(name=RUN)),
        (runs.RetryTrainingRun, training_run_pb2.RetryTrainingRunRequest(name=RUN)),
    ):
        with pytest.raises(FailedPrecondition):
            await call(verb, request)
    listed = await call(
        runs.ListTrainingRunEvents, training_run_pb2.ListTrainingRunEventsRequest(name=RUN, page_size=100)
    )
    causes = [event.cause for event in listed.events]
    assert causes[0] == "ACCEPTED"
    assert causes[-1] == "CANCELLED_BY_USER"
    assert listed.last_revision > created.metadata.revision
    rest = training_run_pb2.ListTrainingRunEventsRequest(name=RUN, after_revision=listed.last_revision)
    assert not (await call(runs.ListTrainingRunEvents, rest)).events


async def test_runs_are_listed_in_pages_newest_first(channel: grpc.aio.Channel) -> None:
    runs: Any = training_run_pb2_grpc.TrainingRunServiceStub(channel)
    for number in range(5):
        await call(runs.CreateTrainingRun, run_request(f"r{number}"))
    names, token = [], ""
    while True:
        request = training_run_pb2.ListTrainingRunsRequest(parent=PARENT, page_size=2, page_token=token)
        page = await call(runs.ListTrainingRuns, request)
        names += [run.metadata.name.rsplit("/", 1)[1] for run in page.training_runs]
        token = page.next_page_token
        if not token:
            break
    assert names == ["r4", "r3", "r2", "r1", "r0"]


async def test_quota_that_can_never_be_met_refuses_the_run(channel: grpc.aio.Channel) -> None:
    projects: Any = project_pb2_grpc.ProjectServiceStub(channel)
    runs: Any = training_run_pb2_grpc.TrainingRunServiceStub(channel)
    found = await call(projects.GetProject, project_pb2.GetProjectRequest(name=PARENT))
    assert found.status.store_prefix == "projects/default/"
    small = project_pb2.UpdateProjectRequest(
        name=PARENT, spec=project_pb2.ProjectSpec(gpu_quota=1), expected_revision=found.metadata.revision
    )
    await call(projects.UpdateProject, small)
    with pytest.raises(LonghaulError, match="changed since"):
        await call(projects.UpdateProject, small)
    with pytest.raises(ResourceExhausted) as caught:
        await call(runs.CreateTrainingRun, run_request())
    assert caught.value.reason == "QUOTA_TOO_SMALL"
    with pytest.raises(NotFound):
        await call(
            runs.CreateTrainingRun,
            training_run_pb2.CreateTrainingRunRequest(
                parent="projects/nobody", training_run_id="r", spec=run_request().spec
            ),
        )


async def test_plan_says_size_time_and_asks_why(channel: grpc.aio.Channel) -> None:
    plans: Any = plan_pb2_grpc.PlanServiceStub(channel)
    model = {"hidden_size": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "ffn_size": 14336}
    model |= {"vocabulary_size": 128256, "tied_embeddings": False}
    values = config(
        model=model, steps=10_000, data={"sequence_length": 8192, "global_batch_size": 512, "micro_batch_size": 1}
    )
    request = plan_pb2.CreatePlanRequest(
        trainer_config=struct(values),
        nodes=8,
        gpus_per_node=8,
        accelerator="h100",
        price_per_gpu_hour=2.5,
        available_tokens=10_000_000_000,
    )
    plan = await call(plans.CreatePlan, request)
    assert plan.parameters == 8_030_261_248
    assert plan.tokens == 10_000 * 512 * 8192
    assert [line.item for line in plan.ledger] == ["main run", "faults and restarts", "experiments and debugging"]
    assert plan.cost == pytest.approx(2.5 * plan.gpu_hours)
    assert plan.epochs == pytest.approx(4.19, abs=0.01)
    assert not all(question.answered for question in plan.compass)
    assert plan.layout.startswith("data 64")
    request.accelerator = "abacus"
    with pytest.raises(InvalidArgument, match="h100"):
        await call(plans.CreatePlan, request)


async def test_experiment_makes_one_run_an_arm_and_is_cancelled_as_a_whole(channel: grpc.aio.Channel) -> None:
    experiments: Any = experiment_pb2_grpc.ExperimentServiceStub(channel)
    runs: Any = training_run_pb2_grpc.TrainingRunServiceStub(channel)
    variant = experiment_pb2.Variant(id="hot", path="optimizer.learning_rate", value=Value(number_value=0.1))
    spec = experiment_pb2.ExperimentSpec(baseline=run_request().spec, variants=[variant])
    request = experiment_pb2.CreateExperimentRequest(parent=PARENT, experiment_id="lr", spec=spec)
    experiment = await call(experiments.CreateExperiment, request)
    assert [arm.id for arm in experiment.status.arms] == ["baseline", "hot"]
    name = experiment.status.arms[1].training_run
    hot = await call(runs.GetTrainingRun, training_run_pb2.GetTrainingRunRequest(name=name))
    assert hot.spec.trainer_config["optimizer"]["learning_rate"] == 0.1
    assert hot.spec.labels["experiment"] == "lr"
    assert (await call(experiments.CreateExperiment, request)).metadata.uid == experiment.metadata.uid

    variant.path = "optimizer.rate"
    wrong = experiment_pb2.ExperimentSpec(baseline=run_request().spec, variants=[variant])
    with pytest.raises(InvalidArgument, match="not a path"):
        await call(
            experiments.CreateExperiment,
            experiment_pb2.CreateExperimentRequest(parent=PARENT, experiment_id="bad", spec=wrong),
        )

    cancel = experiment_pb2.CancelExperimentRequest(name=experiment.metadata.name)
    await call(experiments.CancelExperiment, cancel)
    watching = experiments.WatchExperiments(experiment_pb2.WatchExperimentsRequest(name=experiment.metadata.name))
    async for change in watching:
        states = {arm.state for arm in change.experiment.status.arms}
        if states == {training_run_pb2.TRAINING_RUN_STATE_CANCELLED}:
            break
    watching.cancel()


async def test_task_without_a_node_says_what_it_lacks_and_can_be_cancelled(channel: grpc.aio.Channel) -> None:
    tasks: Any = task_pb2_grpc.TaskServiceStub(channel)
    spec = task_pb2.TaskSpec(kind=task_pb2.TASK_KIND_SCORE, result_key="k", gpus=1)
    request = task_pb2.CreateTaskRequest(parent=PARENT, task_id="t", spec=spec)
    task = await call(tasks.CreateTask, request)
    watching = tasks.WatchTasks(task_pb2.WatchTasksRequest(name=task.metadata.name))
    async for change in watching:
        status = change.task.status
        if "needs 1 GPU(s); 0 free" in status.pending_reason:
            await call(tasks.CancelTask, task_pb2.CancelTaskRequest(name=task.metadata.name))
        if status.reason.code == "CANCELLED_BY_USER":
            break
    watching.cancel()
    with pytest.raises(InvalidArgument, match="kind is not set"):
        await call(tasks.CreateTask, task_pb2.CreateTaskRequest(parent=PARENT, task_id="u"))


async def test_agent_with_a_forged_token_is_refused(channel: grpc.aio.Channel) -> None:
    runs: Any = training_run_pb2_grpc.TrainingRunServiceStub(channel)
    await call(runs.CreateTrainingRun, run_request())
    agents: Any = agent_pb2_grpc.AgentServiceStub(channel)

    async def requests() -> AsyncIterator[agent_pb2.ConnectRequest]:
        yield agent_pb2.ConnectRequest(join=agent_pb2.Join(run=RUN, pod="run-r-0-1", slot=0, incarnation=1))

    async def connect_until_answered() -> None:
        """Until this replica leads it answers with a redirect."""
        while True:
            with rpc_errors():
                async for response in agents.Connect(requests(), metadata=(("authorization", "Bearer forged"),)):
                    assert response.WhichOneof("command") == "redirect"

    with pytest.raises(PermissionDenied):
        await connect_until_answered()
