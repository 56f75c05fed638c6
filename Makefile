# Everything that README names. All targets work from a fresh clone with Python 3.11 or newer and make.
PYTHON ?= python3
# Where to take torch from, for example an index of CUDA builds; empty means pip's own default.
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
HUB_CLIENTS := 0.36.2 1.19.0 1.33.0 2.4.0
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)

.PHONY: help quickstart check test test-all test-clients docs docs-check clean

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

# What users need, and then what developers need.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(PIP) install --quiet --constraint constraints.txt --editable ".[sdxl]"
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(PIP) install --quiet --constraint constraints.txt --editable ".[sdxl,server,dev]"
	@touch $@

## make quickstart   install into .venv, and run the whole loop: train, push, pull, compose, look
quickstart: $(VENV)/ready
	$(BIN)/adapterhub quickstart --out quickstart --again

## make check        lint, types, import contracts
check: $(VENV)/ready-dev
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/basedpyright --level error
	$(BIN)/lint-imports --no-cache

## make test         checks, docs and tests; under 25 minutes on two cores
test: check docs-check
	$(BIN)/python -m pytest -n 2

## make test-all     the same with the full counts of kill tests and fuzzing
test-all: check docs-check
	$(BIN)/python -m pytest -n 2 -m "not gpu and not network"

## make test-clients a day with each release of huggingface_hub that the server is to serve
test-clients: $(VENV)/ready-dev
	for release in $(HUB_CLIENTS); do \
		$(PYTHON) -m venv build/clients/$$release && \
		build/clients/$$release/bin/python -m pip install --quiet requests huggingface_hub==$$release || exit 1; \
	done
	HUB_CLIENTS=$(CURDIR)/build/clients $(BIN)/python -m pytest -n 0 tests/registry/server/test_clients.py

docs-check: $(VENV)/ready-dev
	$(BIN)/mkdocs build --strict --quiet

## make docs         serve the documentation on this machine
docs: $(VENV)/ready-dev
	$(BIN)/mkdocs serve

## make clean        remove what make made, but for the recipe's work in build/
clean:
	rm -rf $(VENV) dist site quickstart .pytest_cache .ruff_cache
