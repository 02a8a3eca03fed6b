# make run    set up a virtual environment here and run the whole chain on the embedded default
# make test   set up and run the default tests
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# A machine without an NVIDIA GPU can save gigabytes:  make run TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
RECIPE ?= willowbrook
SAMPLE ?= 40
SEED ?= 1

.PHONY: run test test-marked mutants mutants-by-hand check help clean docs
run: $(READY)          ## the chain: base, SFT, rankings, reward model, PPO-ptx, report
	$(BIN)/podium run $(RECIPE)

test: $(READY)         ## the default tests (minutes, two cores, no network)
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations 30 -m "not slow and not gpu and not postgres and not browser and not vllm"

test-marked: $(READY)  ## the long ones: kill -9, load, PostgreSQL, a real browser, vLLM where it is installed
	# a file stays on one worker: a browser's event loop must be gone before the next file's tests start theirs
	# in the order of tests/conftest.py, with the longest first, or one worker waits for the other at the end
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 30 -m "(slow or postgres or browser or vllm) and not gpu"

mutants: $(READY)      ## a sample of faults by a tool, and what the tests see:  make mutants FOLDER=ppo
	$(BIN)/python -m tests.mutation $(FOLDER) $(SAMPLE) $(SEED)

mutants-by-hand: $(READY)  ## the faults of tests/mutants.py, each with its test; of a folder or all
	$(BIN)/python -m tests.mutants $(FOLDER)

check: $(READY)        ## formatter, linter, type checker, and the documentation built strictly
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy
	$(BIN)/mkdocs build --strict --quiet --site-dir $$(mktemp -d)

docs: $(READY)         ## write the reference pages anew from the code
	$(BIN)/python docs/generate.py

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Podium needs Python 3.11 or newer; name one with: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@echo "Setting up $(VENV) (once, a few minutes) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

help:                  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/'

clean:                 ## remove the environment, not the runs
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache
