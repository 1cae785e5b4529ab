# `make demo` and `make test` set themselves up: they need Python 3.11 or later, git and a package registry.
# Other variables: PYTHON=/path/to/python3 chooses the interpreter, VENV=folder the virtual environment.

VENV ?= .venv
PYTHON ?=
WORKERS ?= auto
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# No OpenMP threads in tests: the shapes are tiny, and two workers on two cores would only wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow lint bench docs clean
.DELETE_ON_ERROR:

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

venv: $(STAMP) ## the virtual environment, with everything in it

demo: $(STAMP) ## the whole road: train, export, serve, drive, measure (5 minutes; runs/demo/report.html)
	$(BIN)/edp demo

test: $(STAMP) ## the fast tests, a file at a time on each core (WORKERS=0: in one process)
	$(PYTEST) -n $(WORKERS) --maxprocesses 4 --dist loadfile -m "not slow and not gpu"

test-slow: $(STAMP) ## the slow tests
	$(PYTEST) -m "slow and not gpu"

lint: $(STAMP) ## style, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(STAMP) ## how long the samplers take on this machine
	$(BIN)/edp bench sampler

docs: $(STAMP) ## links, commands and the wire format's worked examples in the documents
	$(PYTEST) tests/test_docs.py tests/policy_server/test_wire.py

clean: ## removes what was built; keeps runs/ and the virtual environment
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# torch first and alone: the machine's own pip settings then decide which build of it comes, and the rest agrees.
$(STAMP): pyproject.toml constraints.txt
	@[ -x $(BIN)/pip ] || { python=$$(./.ci/find-python $(PYTHON)) && $$python -m venv $(VENV); }
	@echo "Installing into $(VENV): a minute or more the first time"
	@$(PIP) torch
	@$(PIP) -e '.[dev]'
	@touch $@
