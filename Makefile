# The command contract: names and meanings are stable. Every target sets up .venv if it must.
PROFILE ?= quick
EXPERIMENTS ?=
SEEDS ?=
DATA ?=
STORE ?= store
RESULTS ?= results
ARGS ?=
BENCH ?=
FUZZ ?= 20000
PYTHON ?= $(shell command -v python3.11 || command -v python3)

RUN := .venv/bin/python -m
# The shell takes what a person typed from its environment: in a recipe, quotes and the like would be syntax.
export PROFILE EXPERIMENTS SEEDS DATA STORE RESULTS FUZZ
SELECT = --profile "$$PROFILE" --experiments "$$EXPERIMENTS" --storage "$$STORE" \
  $(if $(SEEDS),--seeds "$$SEEDS") $(if $(DATA),--data "$$DATA") $(ARGS)
RENDER = --results "$$RESULTS" $(SELECT)

# Whether the Python that installs is the one of .venv: behind a link could be the machine's.
OWN := import os, sys; sys.exit(sys.prefix == sys.base_prefix or not os.path.samefile(sys.prefix, ".venv"))

.DEFAULT_GOAL := help
.PHONY: help degradation-study test test-all fuzz ui watch figures report notebooks plan status bench docs lint clean

help:  ## Print the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20
	@echo "Variables: PROFILE=smoke|quick|class|one-gpu|paper EXPERIMENTS=\"a b\" SEEDS=n DATA=name STORE=folder RESULTS=folder BENCH=name FUZZ=n"

.venv/ready: pyproject.toml constraints.txt
	$(if $(strip $(PYTHON)),,$(error no Python was found; name one: make PYTHON=/path/to/python3.11))
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is no Python 3.11 or newer; name another: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "setting up .venv (once; some minutes, several GB)"
	@"$(PYTHON)" -m venv .venv
	@.venv/bin/python -c '$(OWN)' || \
	  { echo "error: .venv is no virtual environment of this folder; remove it, then repeat the command" >&2; exit 2; }
	@env -u PIP_PYTHON -u PIP_TARGET -u PIP_PREFIX -u PIP_ROOT PIP_USER=0 PIP_REQUIRE_VIRTUALENV=1 \
	  .venv/bin/python -m pip install --quiet --timeout 120 --retries 10 --constraint constraints.txt --editable '.[dev]'
	@touch $@

degradation-study: .venv/ready  ## Run what is missing, then render results/<profile>/
	@exec $(RUN) analysis study $(RENDER)

test: .venv/ready  ## The fast test suite
	@.venv/bin/python -m pytest -m "not slow"

test-all: .venv/ready  ## With the slow, fault, browser and server suites
	@.venv/bin/python -m pytest

fuzz: .venv/ready  ## FUZZ inputs of every kind, and as many for each parser: no traceback, no hang, no write outside
	@.venv/bin/python tests/fuzz "$$FUZZ" && .venv/bin/python tests/fuzz/guided.py "$$FUZZ"

ui: .venv/ready  ## The MLflow UI on loopback over the study's store
	@exec $(RUN) dashboards ui --storage "$$STORE"

watch: .venv/ready  ## The study page on loopback, live while trials run
	@exec $(RUN) dashboards watch $(SELECT)

figures: .venv/ready  ## Re-render everything from logged runs, training nothing
	@exec $(RUN) analysis figures $(RENDER)

report: .venv/ready  ## The same, and print the verdicts and tables
	@exec $(RUN) analysis report $(RENDER)

notebooks: .venv/ready  ## Execute the notebooks to HTML from logged runs
	@exec $(RUN) analysis notebooks $(RENDER)

plan: .venv/ready  ## Every trial with predicted seconds and memory, before anything runs
	@exec $(RUN) experiments plan $(SELECT)

status: .venv/ready  ## Where the study stands now
	@exec $(RUN) experiments status $(SELECT)

bench: .venv/ready  ## Benchmarks, as ratios within one run
	@.venv/bin/python tests/benchmarks $(BENCH)

docs: .venv/ready  ## The documentation as a website, in site/
	@NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --quiet

lint: .venv/ready  ## ruff and mypy
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

clean:  ## Remove what was generated; never results or the store
	@rm -rf .venv build site *.egg-info .pytest_cache .mypy_cache .ruff_cache
	@find . -name __pycache__ -type d -not -path './store/*' -prune -exec rm -rf {} +
