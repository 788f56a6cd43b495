import pytest
from longhaul_client.recipes.changes import apply_changes
from longhaul_core.errors import InvalidArgument

RECIPE = {"name": "a", "model": {"layers": 2}, "training": {"optimizer": {"kind": "adamw"}}}


def test_changes_follow_short_and_full_keys_and_leave_the_recipe_alone() -> None:
    changed = apply_changes(RECIPE, ["lr=0.002", "optimizer=muon", "model.activation=relu2", "training.steps=7"])
    assert changed["training"] == {"optimizer": {"kind": "muon", "learning_rate": 0.002}, "steps": 7}
    assert changed["model"] == {"layers": 2, "activation": "relu2"}
    assert RECIPE["training"] == {"optimizer": {"kind": "adamw"}}


@pytest.mark.parametrize("change", ["lr", "=3", "model.layers.deep=1"])
def test_change_that_makes_no_sense_is_refused(change: str) -> None:
    with pytest.raises(InvalidArgument):
        apply_changes(RECIPE, [change])
