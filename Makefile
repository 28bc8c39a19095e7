# Pagewire's commands. They need a POSIX shell, git and a Python 3.11 or later with venv and pip:
# everything else is installed into .venv, by hash, the first time that a target needs it.

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --no-input --disable-pip-version-check -qq

SERVICES := store rules sync webhook
MEMBERS := protos runtime $(SERVICES:%=services/%) simulator cli
PROTOS = $(shell find protos/pagewire -name '*.proto' | sort)
STUBS := protos/src
DOCKERFILES := $(SERVICES:%=services/%/Dockerfile) simulator/Dockerfile cli/Dockerfile

export PIP_ROOT_USER_ACTION := ignore

.DELETE_ON_ERROR:
.PHONY: help demo test rows up check bench faults clean lint types format protos fresh contracts \
    release-contracts alone containers addresses lock

help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | \
	    awk -F ':.*## ' '{ printf "  make %-18s %s\n", $$1, $$2 }'

## What is installed: first what runs, then the tools on top of it, in one environment.

$(VENV)/pyvenv.cfg:
	@scripts/venv $(VENV) $(PYTHON)

$(VENV)/run.stamp: requirements/run.txt $(MEMBERS:%=%/pyproject.toml) | $(VENV)/pyvenv.cfg
	@echo "Installing what Pagewire runs on into $(VENV) …"
	@$(PIP) install --require-hashes -r requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation $(MEMBERS:%=-e ./%)
	@touch $@

$(VENV)/dev.stamp: requirements/dev.txt $(VENV)/run.stamp
	@echo "Installing the tools for development into $(VENV) …"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

## The commands. `exec`: a signal that make passes on reaches the launcher itself.

demo: $(VENV)/run.stamp ## the whole system for half a minute, on throw-away servers, with a simulated Meta
	@exec $(BIN)/python -m pagewire_cli.demo $(ARGS)

up: $(VENV)/run.stamp ## the system, staying up, on embedded servers or on DATABASE_URL, REDIS_URL, …
	@exec $(BIN)/python -m pagewire_cli.launcher up $(ARGS)

test: $(VENV)/dev.stamp ## the whole test suite; ARGS="tests/store -k claim" for a part
	$(BIN)/python -m pytest -n 3 --dist loadfile $(ARGS)

bench: $(VENV)/dev.stamp ## the benchmarks; SUITE=edge, live, … for one of them
	@exec $(BIN)/python -m bench $(SUITE)

rows: $(VENV)/dev.stamp ## beyond `make test`: each fault by itself, other draws of it, planted bugs
	$(BIN)/python -m pytest -m rows -n 4 --dist loadfile tests/faults $(ARGS)

faults: $(VENV)/dev.stamp ## faults at random under load, then the promises checked; SEED=, MINUTES=
	@exec $(BIN)/python -m faults $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

check: lint types fresh contracts containers addresses alone ## everything but the tests

lint: $(VENV)/dev.stamp ## style, likely mistakes, and what may import what
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/dev.stamp ## mypy, strict
	$(BIN)/mypy

format: $(VENV)/dev.stamp ## put the code and the protos into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format -w

# protoc finds its plugins on PATH.
generate = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I protos \
    --python_out=$(1) --mypy_out=quiet:$(1) --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) $(PROTOS)

protos: $(VENV)/dev.stamp ## format the protos and generate the stubs; commit what changes
	$(BIN)/buf format -w
	$(BIN)/buf lint
	find $(STUBS)/pagewire -name '*_pb2*.py*' -delete
	$(call generate,$(STUBS))

fresh: $(VENV)/dev.stamp ## the committed stubs are those of the protos
	@new=$$(mktemp -d) && trap 'rm -rf "$$new"' EXIT && $(call generate,"$$new") && \
	    diff -r -x __init__.py -x py.typed -x __pycache__ "$$new/pagewire" $(STUBS)/pagewire || \
	    { echo "The stubs are not those of the protos: run make protos."; exit 1; }

contracts: $(VENV)/dev.stamp ## the protos are well-formed, and break nobody who uses the released ones
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf lint
	$(BIN)/buf breaking --against protos/released.binpb

release-contracts: $(VENV)/dev.stamp ## take the protos as they are for released: at a release only
	$(BIN)/buf build --exclude-source-info -o protos/released.binpb

alone: $(VENV)/dev.stamp ## each service installs and imports with its own dependencies only
	$(BIN)/python scripts/alone.py $(SERVICES) simulator cli

containers: $(VENV)/dev.stamp ## the Dockerfiles and the compose file are sound
	$(BIN)/hadolint $(DOCKERFILES)
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

addresses: $(VENV)/dev.stamp ## no file names a registry's address or a path of one machine
	$(BIN)/python scripts/addresses.py

# The launcher refuses to remove the data of a system that runs, and knows where root's servers are.
clean: ## remove what was made: embedded data, results, caches; not .venv
	@if [ -x $(BIN)/python ] && [ -d .pagewire ]; then \
	    PAGEWIRE_DATA_DIR="$(CURDIR)/.pagewire" $(BIN)/python -m pagewire_cli.launcher clean; fi
	rm -rf .pagewire bench/results.json bench/scratch dist .hypothesis \
	    .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

## The locks: dev.txt is resolved once, the others are parts of it. ARGS=--upgrade raises versions.

lock: $(VENV)/dev.stamp ## resolve the requirements anew
	@command -v uv >/dev/null || $(PIP) install uv
	PATH="$$PATH:$(CURDIR)/$(BIN)" scripts/lock $(ARGS)
