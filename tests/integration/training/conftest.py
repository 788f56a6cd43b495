from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "trainer"), str(HERE.parents[1] / "contract" / "recovery")]
pytest.register_assert_rewrite("recovery_contract", "training_harness")

from trainer_harness import make_token_set  # noqa: E402 - found through the path above
from training_harness import Lab  # noqa: E402


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three nodes of one pretend GPU, the checkpoint service and the training service, all as processes."""
    opened = Lab(tmp_path_factory.mktemp("lab"), nodes=3)
    opened.create_project()
    opened.token_set_key = make_token_set(opened.objects_url)
    opened.upstream.add_token_set(opened.token_set_key)
    yield opened
    opened.close()
