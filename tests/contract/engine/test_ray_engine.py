"""What the Ray engine adds: errors where Ray would wait for ever."""

import asyncio

import engine_contract_tasks as tasks
import pytest
from longhaul_core.engine.ray_engine import RayEngine
from longhaul_core.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("asked", [{"cpus": 64}, {"memory_bytes": 1 << 50}])
def test_asking_for_more_than_a_node_has_is_refused_at_once(ray_cluster: None, asked: dict[str, int]) -> None:
    with pytest.raises(ResourceExhausted, match="largest of 1 Ray nodes has 2 CPUs") as caught:
        RayEngine.connect(cpus=asked.get("cpus", 1), memory_bytes=asked.get("memory_bytes", 0))
    assert caught.value.reason == "RAY_RESOURCES"


async def test_a_task_that_ray_does_not_start_in_time_is_told(ray_cluster: None) -> None:
    here = tasks.__file__.rpartition("/")[0]
    holder = RayEngine.connect(cpus=2, import_path=[here])
    late = RayEngine.connect(start_timeout_seconds=0.3, import_path=[here])
    started = asyncio.Event()
    holding = asyncio.create_task(holder.submit(tasks.wait_for_ever, {}, on_progress=lambda _: started.set()))
    await asyncio.wait_for(started.wait(), 180)
    with pytest.raises(DeadlineExceeded) as caught:
        await late.submit(tasks.add, {"left": 1, "right": 1})
    assert caught.value.reason == "RAY_TASK_NOT_STARTED"
    await holder.close()
    await asyncio.gather(holding, return_exceptions=True)


def test_an_address_of_the_client_protocol_is_refused_with_the_way_out() -> None:
    with pytest.raises(InvalidArgument) as caught:
        RayEngine.connect("ray://head:10001")
    assert caught.value.reason == "RAY_CLIENT_UNSUPPORTED"
