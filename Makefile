# Two commands are enough on a fresh machine: `make demo` and `make test`.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.requirements-dev.lock
export PYTHONPATH := operator:trainer_image:serving_image:.
export PYTHONDONTWRITEBYTECODE := 1
FAST := -m "not slow and not apiserver and not engine and not families and not e2e"

.DEFAULT_GOAL := help

##@ Use it
demo: $(STAMP) ## Tune, gate and serve a real model on this machine, from nothing to answers
	$(RUN) -m dev demo

up: $(STAMP) ## Start the embedded cluster with the operator installed
	$(RUN) -m dev up

down: $(STAMP) ## Stop the embedded cluster (caches stay)
	$(RUN) -m dev down

status: $(STAMP) ## Show the embedded cluster's parts
	@$(RUN) -m dev status

kubeconfig: $(STAMP) ## Print the path of the running cluster's kubeconfig
	@$(RUN) -m dev kubeconfig

##@ Check it
test: lint ## Everything that fits CI: lint, types, layers, unit, contract, API server, end to end
	$(RUN) -m dev test

test-fast: $(STAMP) ## What takes under two minutes warm
	$(RUN) -m pytest tests -n 2 -q $(FAST)

test-long: test ## Every family of models with an engine (writes docs/models.md), every fault (docs/faults.md); interruptions and e2e repeated
	$(RUN) -m tests.families.report
	$(RUN) -m tests.faults.report
	$(RUN) -m pytest -q tests -m long
	FINETUNE_TEST_REPEAT=5 $(RUN) -m pytest -q tests/unit/trainer_train/launch/test_interruptions.py -k random
	FINETUNE_TEST_REPEAT=5 $(RUN) -m dev test --only e2e

lint: $(STAMP) ## Style, types, layers, generated files
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy operator/finetune_operator trainer_image/finetune_trainer serving_image/finetune_serving dev
	$(VENV)/bin/lint-imports
	$(RUN) -m finetune_operator.generate --check

format: $(STAMP) ## Rewrite the code in the one style
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

##@ Make it
generate: $(STAMP) ## Write CRDs, the chart's copy and docs/api.md from the typed models; what vLLM says of adapters
	$(RUN) -m finetune_operator.generate
	$(RUN) -m dev.served_adapters

UV := $(VENV)/bin/uv
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header
OVERRIDES := --override serving_image/overrides-cpu.txt
# The development environment first: the images then take its versions, so that they share their big layers.
lock: $(STAMP) ## Resolve the hashed requirements of the images and of the development environment
	$(COMPILE) $(OVERRIDES) --extra operator --extra trainer --extra serving-cpu --extra dev pyproject.toml -o requirements-dev.lock
	$(COMPILE) -c requirements-dev.lock --extra operator pyproject.toml -o operator/requirements.lock
	$(COMPILE) -c requirements-dev.lock --extra trainer pyproject.toml -o trainer_image/requirements.lock
	$(COMPILE) $(OVERRIDES) -c requirements-dev.lock --extra serving-cpu pyproject.toml -o serving_image/requirements-cpu.lock
	$(COMPILE) --extra serving pyproject.toml -o serving_image/requirements.lock

$(STAMP): requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 13) else "finetune-operator needs Python 3.11 or 3.12 (this is %d.%d); say which with PYTHON=..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	UV_LINK_MODE=hardlink VIRTUAL_ENV=$(VENV) $(UV) pip sync --quiet --compile-bytecode --require-hashes requirements-dev.lock
	$(RUN) -m ensurepip --upgrade > /dev/null 2>&1 || true
	cp requirements-dev.lock $@

help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo up down status kubeconfig test test-fast test-long lint format generate lock help
