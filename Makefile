# longhaul: every command of the repository. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
PACKAGES := libs/protos libs/core libs/client services/ingest services/corpus services/training services/checkpoint services/evaluation services/gpuhealth services/trainer
IMAGES := ingest corpus training checkpoint evaluation gpuhealth trainer
SOURCES := longhaul_core longhaul_client longhaul_ingest longhaul_corpus longhaul_training longhaul_checkpoint longhaul_evaluation longhaul_gpuhealth longhaul_trainer

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint type docs proto proto-check sim bench-control bench-recovery bench-gpuhealth bench-data bench-parity bench-trainer bench-checkpoint bench-gpu test-gpu test-cluster test-image images up down clean charts bench-services bench-replicas bench-sizing soak checkov

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

setup: $(STAMP) ## install everything into .venv from the lock

# torch goes first and by itself, so that pip takes whichever build the machine's index offers (CPU wheel or CUDA).
$(STAMP): requirements.lock scripts/link_packages.py
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setup: torch" && $(BIN)/python -m pip install -q --disable-pip-version-check torch==2.13.0
	@echo "setup: everything else" && $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -r requirements.lock
	@$(BIN)/python scripts/link_packages.py $(PACKAGES)
	@touch $@

proto: $(STAMP) ## regenerate libs/protos from protos/
	@$(BIN)/python scripts/generate_protos.py

proto-check: $(STAMP) ## fail if the generated code differs from protos/, or buf finds fault
	@$(BIN)/python scripts/generate_protos.py --check
	@cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf breaking --against previous.binpb

docs: $(STAMP) charts ## regenerate docs/recipe.md, docs/settings.md and docs/metrics.md
	@$(BIN)/python scripts/generate_docs.py

charts: $(STAMP) ## regenerate schema, values and README of every chart from charts/values
	@$(BIN)/python scripts/generate_chart_docs.py

build/checkov/.ready: requirements-checkov.lock
	@$(PYTHON) -m venv build/checkov
	@build/checkov/bin/python -m pip install -q --disable-pip-version-check --no-deps -r requirements-checkov.lock
	@touch $@

checkov: $(STAMP) build/checkov/.ready ## look for misconfigurations in the rendered charts
	@$(BIN)/python scripts/check_charts.py build/checkov/bin/checkov

lint: $(STAMP) proto-check ## ruff, import layers, protos, generated pages
	@$(BIN)/python scripts/generate_docs.py --check
	@$(BIN)/python scripts/image_lists.py --check
	@$(BIN)/python scripts/generate_chart_docs.py --check
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache

type: $(STAMP) ## mypy, strict
	@$(BIN)/mypy $(addprefix -p ,$(SOURCES))

# Three workers on two cores, since tests wait for processes half of their time; those of a folder share what they start.
test: $(STAMP) ## all tests that need no cluster and no GPU
	@$(BIN)/python -m pytest -n 3 --no-loadscope-reorder --durations=25 tests

demo: $(STAMP) ## take a real crawl through all services, with two real faults (CLEAN=1 starts anew)
	@$(BIN)/python examples/python-docs/demo.py $(if $(CLEAN),--clean)

up: $(STAMP) ## start the services on this machine
	@$(BIN)/longhaul up

down: ## stop them
	@$(BIN)/longhaul down

bench-control: $(STAMP) ## the controller: Create, reconcile of 8,000 GPUs, 2,000 pods, 2,000 heartbeats, 1,000 runs under kills
	@$(BIN)/python bench/control.py

bench-recovery: $(STAMP) ## recovery on this machine: six faults, REPS=5 times each
	@$(BIN)/python bench/recovery.py --repetitions $(or $(REPS),5)

bench-parity: $(STAMP) ## 100 steps of the demo's model against a plain transformers + AdamW loop, three seeds
	@$(BIN)/python bench/parity.py

bench-trainer: $(STAMP) ## the trainer's step on a CPU against transformers + torch.compile
	@$(BIN)/python bench/trainer.py

bench-checkpoint: $(STAMP) ## stall, write and load against torch.distributed.checkpoint
	@$(BIN)/python bench/checkpoint.py

bench-gpu: $(STAMP) ## on one NVIDIA GPU: share of the peak, tokens/s, memory for 124M to 3B
	@$(BIN)/python bench/gpu.py

test-gpu: $(STAMP) ## tests that need an NVIDIA GPU
	@$(BIN)/python -m pytest tests/gpu -m gpu

soak: $(STAMP) ## STEPS=20000 steps under kill -9 of everything (SEED=…), bit for bit those of a run left alone
	@$(BIN)/python bench/soak.py --steps $(or $(STEPS),20000) --seed $(or $(SEED),0)

bench-services: $(STAMP) ## gRPC core: unary calls against a bare echo, 1,000 watches, rolling restarts
	@$(BIN)/python bench/services.py

bench-replicas: $(STAMP) ## ingest and corpus: two replicas against one, and one killed (PostgreSQL, root)
	@$(BIN)/python bench/replicas.py --rounds $(or $(REPS),3)

bench-sizing: $(STAMP) ## what each service costs at 10, 100 and 1,000 nodes
	@$(BIN)/python bench/sizing.py

bench-data: $(STAMP) ## data: extraction, filters, deduplication, tokens, loader against datatrove and tokenizers
	@test -d build/bench-peers/spacy || $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --target build/bench-peers -r bench/requirements.txt
	@PYTHONPATH=build/bench-peers $(BIN)/python bench/data.py

bench-gpuhealth: $(STAMP) ## GPU health: pages, 1,000 nodes on one core, verdicts, a burst of cordons, what fails beside it
	@$(BIN)/python bench/gpuhealth.py

sim: $(STAMP) ## 10,000 seeds of the controller's simulation (SEEDS=…, FIRST=… to replay)
	@$(BIN)/python tests/simulation/simulate.py --seeds $(or $(SEEDS),10000) --first $(or $(FIRST),0)

test-cluster: $(STAMP) ## tests against the Kubernetes API of KUBECONFIG or KUBEBUILDER_ASSETS
	@if [ -z "$$KUBECONFIG$$KUBEBUILDER_ASSETS" ]; then \
	  echo "test-cluster: neither KUBECONFIG nor KUBEBUILDER_ASSETS is set: nothing was tested"; \
	else $(BIN)/python -m pytest tests/cluster -m cluster; fi

images: $(STAMP) ## build all images as OCI archives in build/images, without an engine
	@for image in $(IMAGES); do $(BIN)/python scripts/build_image.py $$image || exit 1; done

test-image: $(STAMP) ## build each image and start it as a pod would (root, apt, minutes)
	@$(BIN)/python -m pytest tests/image -m image

clean: ## remove caches and the demo's data
	rm -rf .longhaul .mypy_cache .ruff_cache .pytest_cache build
