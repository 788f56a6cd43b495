"""Recipes: what is accepted, and that every fault names line, value and remedy."""

from pathlib import Path

import pytest
from longhaul_client.recipes import dump_recipe, parse_recipe, read_recipe
from longhaul_core.errors import InvalidArgument, NotFound

MINIMAL = """\
name: docs
sources:
  - name: web
    kind: warc
    path: crawl.warc.gz
"""


def parse(text: str, folder: Path = Path("/data")):
    return parse_recipe(text, origin="recipe.yaml", folder=folder)


def fault(text: str) -> str:
    with pytest.raises(InvalidArgument) as raised:
        parse(text)
    assert raised.value.reason == "RECIPE_INVALID"
    return raised.value.message


def test_minimal_recipe_takes_defaults_and_absolute_paths():
    recipe = parse(MINIMAL)
    assert recipe.project == "default"
    assert recipe.sources[0].paths == ["/data/crawl.warc.gz"]
    assert recipe.trainer_config().tokens_per_step == 16 * 256


def test_remote_location_is_left_as_it_is():
    recipe = parse(MINIMAL.replace("crawl.warc.gz", "s3://bucket/crawl/*.warc.gz"))
    assert recipe.sources[0].paths == ["s3://bucket/crawl/*.warc.gz"]


def test_resolved_recipe_reads_back_equal():
    recipe = parse(MINIMAL)
    assert parse(dump_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    ("addition", "line", "expected"),
    [
        ("training: {step: 3}", 6, "unknown key 'training.step'; did you mean 'steps'?"),
        ("training:\n  optimizer:\n    learnin_rate: 1", 8, "did you mean 'learning_rate'?"),
        ("xyzzy: 1", 6, "unknown key 'xyzzy'; known keys: checkpoints, cleaning"),
        ("training:\n  steps: -4", 7, "training.steps: Input should be greater than 0 (it is -4)"),
        ("corpus:\n  mixture: {wbe: 1.0}", 1, "corpus.mixture: 'wbe' is not a source; there are web"),
        ("model: {hidden_size: 30, heads: 4}", 6, "hidden_size 30 is not a multiple of heads 4"),
        ("resources: {nodes: 3}", 1, "global_batch_size 16 is not a multiple of data_parallel 3"),
        ("layout: {tensor_parallel: 2}", 1, "but there are 1 GPUs"),
        ("training: {schedule: {warmup_steps: 400}}", 1, "do not fit in 300 steps"),
    ],
)
def test_fault_names_line_value_and_remedy(addition: str, line: int, expected: str):
    message = fault(MINIMAL + addition + "\n")
    assert message.startswith(f"recipe.yaml:{line}: ")
    assert expected in message


def test_several_faults_are_all_told():
    message = fault("name: docs\nsources: []\nmodel: {layerz: 2}\ntraining: {steps: zero}\n")
    assert len(message.splitlines()) == 3


def test_misspelt_key_inside_a_list_names_the_item():
    message = fault(MINIMAL + "    pth: other\n")
    assert message == "recipe.yaml:6: unknown key 'sources.0.pth'; did you mean 'path'?"


def test_missing_key_is_named():
    assert "name is missing" in fault("sources: [{name: a, kind: text, path: x}]\n")


def test_source_named_twice_is_refused():
    twice = MINIMAL + "  - {name: web, kind: text, path: other}\n"
    assert "the name 'web' is given twice" in fault(twice)


def test_broken_yaml_names_line_and_column():
    assert fault("name: docs\nsources: [unclosed\n").startswith("recipe.yaml:3:1: not valid YAML")


def test_empty_file_is_refused():
    assert "a recipe is a mapping" in fault("")


def test_absent_file_is_refused(tmp_path: Path):
    with pytest.raises(NotFound, match="no recipe at"):
        read_recipe(tmp_path / "absent.yaml")


def test_binary_file_is_refused(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InvalidArgument, match="cannot be read"):
        read_recipe(path)
