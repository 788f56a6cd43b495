"""What each image installs: computed from pyproject.toml and the lock."""

import re

import pytest
import yaml
from images.contents import IMAGES, REQUIREMENTS, ROOT, contents, lock, sbom

SERVICES = ["ingest", "corpus", "training", "checkpoint", "evaluation", "gpuhealth"]
DATA = {"datatrove", "numba", "pyarrow", "tokenizers"}


@pytest.mark.parametrize("name", SERVICES)
def test_service_image_has_neither_torch_nor_ray(name: str):
    installed = {pin.name for pin in contents(IMAGES[name])}
    assert "grpcio" in installed
    assert installed & {"torch", "ray", "transformers", "lm-eval", "pytest", "mypy", "ruff", "moto", "typer"} == set()


@pytest.mark.parametrize("name", ["training", "checkpoint", "evaluation", "gpuhealth"])
def test_control_services_have_no_data_libraries(name: str):
    assert {pin.name for pin in contents(IMAGES[name])} & DATA == set()


def test_only_services_that_own_pods_or_nodes_have_the_kubernetes_client():
    with_client = {name for name in SERVICES if "kubernetes" in {pin.name for pin in contents(IMAGES[name])}}
    assert with_client == {"training", "gpuhealth"}


def test_ray_images_add_ray_and_still_no_torch():
    for name in ("ingest-ray", "corpus-ray"):
        added = {pin.name for pin in contents(IMAGES[name])} - {pin.name for pin in contents(IMAGES[name[:-4]])}
        assert "ray" in added
        assert "torch" not in added


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_committed_list_is_what_the_packages_need(name: str):
    lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()[1:]
    assert lines == [str(pin) for pin in contents(IMAGES[name])], "run `make docs`"
    assert set(lines) <= {str(pin) for pin in lock().values()}


@pytest.mark.parametrize("name", SERVICES)
def test_bill_of_materials_names_everything_once(name: str):
    bill = sbom(name, "0.1.0")
    purls = [component["purl"] for component in bill["components"]]
    wanted = [f"pkg:pypi/{pin.name}@{pin.version}" for pin in contents(IMAGES[name])]
    wanted += [f"pkg:pypi/longhaul-{part}@0.1.0" for part in ("protos", "core", name)]
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert sorted(purls) == sorted(wanted)
    assert bill["dependencies"][0]["dependsOn"] == purls
    assert sbom(name, "0.1.0")["serialNumber"] == bill["serialNumber"] != sbom(name, "0.1.1")["serialNumber"]


def test_dockerfiles_run_as_a_number_that_is_not_root_and_pin_their_base():
    for path in sorted((ROOT / "docker").glob("*.Dockerfile")):
        text = path.read_text()
        assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
        assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11\.\d+-slim-bookworm$", text, re.MULTILINE)
        assert text.index("USER 10001") > text.rindex("FROM "), "the last stage drops root"
        for source in re.findall(r"^COPY (?!--from)(\S+)", text, re.MULTILINE):
            present = [source.replace("${IMAGE}", name) for name in IMAGES] if "${IMAGE}" in source else [source]
            assert all((ROOT / item).exists() for item in present), source


def test_bake_builds_every_image():
    targets = set(
        re.findall(r'"([a-z-]+)"', re.search(r"image = \[(.*?)\]", (ROOT / "docker/bake.hcl").read_text())[1])
    )
    assert targets | {"trainer"} == set(IMAGES)


def test_compose_runs_every_service_hardened():
    document = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    assert set(document["services"]) == set(SERVICES)
    for name, service in document["services"].items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        port = service["environment"]["LONGHAUL_LISTEN_ADDRESS"].rpartition(":")[2]
        assert service["environment"][f"LONGHAUL_{name.upper()}_ADDRESS"] == f"{name}:{port}"
        assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
