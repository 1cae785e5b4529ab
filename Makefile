# Every target installs what it needs. It wants Python 3.11 or later, git and a package registry.
# PYTHON=/path/to/python3 chooses the interpreter, VENV=FOLDER the virtual environment.

VENV ?= .venv
PYTHON ?=
WORKERS ?= auto
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Tests use one OpenMP thread: their shapes are tiny, and more threads would compete for the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow lint bench docs clean
.DELETE_ON_ERROR:

help: ## prints this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

venv: $(STAMP) ## makes the virtual environment with everything in it

demo: $(STAMP) ## trains, exports, serves, drives and measures once (3 to 5 minutes; runs/demo/report.html)
	$(BIN)/edp demo

test: $(STAMP) ## runs the fast tests, a file at a time on each core (WORKERS=0: in one process)
	$(PYTEST) -n $(WORKERS) --maxprocesses 4 --dist loadfile -m "not slow and not gpu"

test-slow: $(STAMP) ## runs the slow tests
	$(PYTEST) -m "slow and not gpu"

lint: $(STAMP) ## checks style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(STAMP) ## times the samplers on this machine
	$(BIN)/edp bench sampler

docs: $(STAMP) ## builds the documentation site with the API into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

clean: ## removes what was built; keeps runs/ and the virtual environment
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# torch comes first and alone, so that pip's settings decide which build of it is installed.
$(STAMP): pyproject.toml constraints.txt
	@[ -x $(BIN)/pip ] || { python=$$(./.ci/find-python $(PYTHON)) && $$python -m venv $(VENV); }
	@echo "Installing into $(VENV): a minute or more the first time"
	@$(PIP) torch
	@$(PIP) -e '.[dev]'
	@touch $@
