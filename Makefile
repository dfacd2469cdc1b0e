# Needs GNU make, a POSIX shell and Python 3.11 to 3.13. `make help` lists the targets.

# Interpreter for the environment; empty picks one.
PYTHON ?=
# 1: uv; 0: venv and pip; empty: uv when it is installed.
USE_UV ?=
PYTEST_ARGS ?= -n 4 --dist loadscope

VENV := .venv
BIN := $(VENV)/bin
# Everything, and what running needs alone.
INSTALLED := $(VENV)/.installed
RUNNABLE := $(VENV)/.runnable
GENERATED := packages/models/_generated
MODELS := $(GENERATED)/.schema-version
SOURCES := registry packages scripts tests

# Checks are told apart by their order in the output; two at a time would mix them.
.NOTPARALLEL:
.DEFAULT_GOAL := help
# Settings of the caller's shell that would lead Python out of our environment.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV
# Without kept bytecode each worker and each process of the tests compiles every module anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  %-16s %s\n", $$1, $$2 }' Makefile

.PHONY: run
run: $(RUNNABLE) $(MODELS) ## Start a complete local registry; Ctrl-C stops it
	@REGISTRY_HOME="$${REGISTRY_HOME:-.registry}" $(BIN)/registry serve --local

.PHONY: test
test: $(INSTALLED) $(MODELS) ## Run the tests (PYTEST_ARGS="..." replaces the options)
	$(BIN)/pytest $(PYTEST_ARGS)

.PHONY: test-quick
test-quick: $(INSTALLED) $(MODELS) ## Run the tests that open no socket, in a minute
	$(BIN)/pytest -n 2 --dist loadscope --quick

.PHONY: test-conformance
test-conformance: $(INSTALLED) $(MODELS) ## Run the official conformance suite and write its page
	CONFORMANCE_PAGE=write $(BIN)/pytest tests/conformance

.PHONY: real-descriptions
real-descriptions: $(INSTALLED) $(MODELS) ## Call all tools of real OpenAPI descriptions and write the table
	$(BIN)/python -m tests.rest.real.report

.PHONY: check
check: format-check lint types imports test ## Run everything that must pass before a commit lands

.PHONY: bench
bench: $(INSTALLED) $(MODELS) ## Measure the gateway and print ratios
	$(BIN)/python -m scripts.bench

.PHONY: schemas
schemas: $(RUNNABLE) ## Generate the models from the pinned JSON Schemas
	$(BIN)/generate-schemas

.PHONY: docs
docs: $(INSTALLED) $(MODELS) ## Write the generated parts of docs/
	$(BIN)/python scripts/generate_docs.py

.PHONY: install
install: $(INSTALLED) ## Install the pinned packages and this project into .venv

.PHONY: format
format: $(INSTALLED) ## Format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix-only --quiet

.PHONY: format-check
format-check: $(INSTALLED)
	$(BIN)/ruff format --check

.PHONY: lint
lint: $(INSTALLED) ## Run ruff
	$(BIN)/ruff check

.PHONY: types
types: $(INSTALLED) $(MODELS) ## Run mypy
	$(BIN)/mypy

.PHONY: imports
imports: $(INSTALLED) ## Check which package may import which
	$(BIN)/lint-imports

.PHONY: constraints
constraints: ## Pin the packages anew after a change of pyproject.toml (needs uv)
	sh scripts/constraints.sh $(CONSTRAINTS_ARGS)

.PHONY: clean
clean: ## Remove what was built, installed and cached; .registry/ stays
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache \
		.import_linter_cache .schemathesis .coverage .coverage.* \
		tests/crossapp/releases/*/node_modules tests/npm/node_modules tests/browser/node_modules tests/rest/real/node_modules \
		tests/clients/fastmcp/.venv tests/clients/python_v1/.venv
	find $(GENERATED) -mindepth 1 ! -name README.md -delete
	find $(SOURCES) -type d -name __pycache__ -prune -exec rm -rf {} +

# A dead link where the interpreter was: it has been upgraded or removed.
ifneq ($(shell test -x $(BIN)/python && echo yes),yes)
.PHONY: $(INSTALLED) $(RUNNABLE)
endif

$(INSTALLED): pyproject.toml constraints.txt scripts/install.sh
	@PYTHON='$(PYTHON)' USE_UV='$(USE_UV)' VENV='$(VENV)' sh scripts/install.sh
	@touch $@ $(RUNNABLE)

$(RUNNABLE): pyproject.toml constraints-run.txt scripts/install.sh
	@test $(INSTALLED) -nt constraints.txt || \
		PYTHON='$(PYTHON)' USE_UV='$(USE_UV)' VENV='$(VENV)' PINS=constraints-run.txt \
		sh scripts/install.sh
	@touch $@

$(MODELS): $(RUNNABLE) $(shell find packages/models/generator packages/models/schemas -name '*.py' -o -name '*.json' -o -name SHA256SUMS)
	$(BIN)/generate-schemas
	@touch $@
