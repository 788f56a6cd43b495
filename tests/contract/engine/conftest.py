"""The engines under contract: processes of this machine, and a Ray cluster on it."""

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from longhaul_core.engine import Engine, LocalEngine

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)  # workers get the path, and find the tasks by it

WORKERS = 2


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    import ray
    from longhaul_core.engine.ray_engine import RayEngine

    RayEngine.connect(num_cpus=WORKERS, object_store_memory=100 << 20)
    yield
    ray.shutdown()


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.slow)])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    if request.param == "ray":
        from longhaul_core.engine.ray_engine import RayEngine

        request.getfixturevalue("ray_cluster")
        engine: Engine = RayEngine.connect(import_path=[HERE])
    else:
        engine = LocalEngine(WORKERS)
    yield engine
    await engine.close()


@pytest.fixture
async def local_engine() -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(WORKERS)
    yield engine
    await engine.close()
