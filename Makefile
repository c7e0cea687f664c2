# One command each on a fresh machine with Python >= 3.11 and make. VENV=path puts the environment elsewhere.
VENV ?= .venv
LOWEST ?= .venv-lowest
PYTHON ?= python3
BIN := $(VENV)/bin
BASE := $(VENV)/.base
ALL := $(VENV)/.all
JOBS ?= 2

.PHONY: help setup base demo test test-slow test-lowest campaign notebooks docs lint format dist bench clean

help:
	@echo "make demo         install the package alone and run the main job on made-up scans (about 2 minutes)"
	@echo "make test         install everything and run the ordinary tests"
	@echo "make test-slow    the tests marked slow, but for those of the campaign"
	@echo "make test-lowest  demo and tests with the lowest versions that setup.cfg allows, in an environment of its own"
	@echo "make campaign     the attacks of docs/reliability.md (an hour; ONLY=\"kills and predict\" for a part)"
	@echo "make notebooks    run every notebook"
	@echo "make docs         the documentation as web pages, in build/docs"
	@echo "make lint         ruff and mypy"
	@echo "make dist         wheel and sdist, checked, in dist"
	@echo "make bench        the benchmarks (long; see benchmarks/RESULTS.md)"

base: $(BASE)

setup: $(ALL)

$(BASE): setup.cfg setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("slivit needs Python 3.11 or newer; set PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e .
	@touch $(BASE)

$(ALL): $(BASE)
	$(BIN)/python -m pip install --quiet -e ".[all]"
	@touch $(ALL)

demo: $(BASE)
	$(BIN)/slivit demo demo --overwrite

# One thread a test process: the processes together use every core, and small tensors gain nothing from more threads.
# worksteal keeps tests of a file in one process, so that what they share is made once, and ends in balance.
test: $(ALL)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow and not network"

test-slow: $(ALL)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "slow and not network" --ignore=tests/campaign

# uv resolves direct requirements to the lowest version allowed; what they need themselves is the newest that fits.
test-lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct -e ".[baselines]"
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python pytest pytest-timeout hypothesis
	$(LOWEST)/bin/slivit demo build/demo-lowest --overwrite
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -m "not slow and not network" tests/readers tests/models

# Kills, damaged files, hostile checkpoints, full disks (where a small disk may be mounted): see docs/reliability.md.
# ONLY="kills and finetune" makes a part of it.
campaign: $(ALL)
	OMP_NUM_THREADS=1 SLIVIT_CAMPAIGN=full $(BIN)/python -m pytest -n 0 -k "$(ONLY)" tests/campaign

notebooks: $(ALL)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --nbmake --nbmake-timeout=900 notebooks

# A warning is an error: a link that leads nowhere, a docstring that is not laid out as it should be.
docs: $(ALL)
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

lint: $(ALL)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(ALL)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dist: $(ALL)
	rm -rf dist build/lib
	$(BIN)/python -m pip install --quiet build twine
	$(BIN)/python -m build --quiet
	$(BIN)/python -m twine check --strict dist/*

bench: $(ALL)
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/adrenal.py

clean:
	rm -rf build dist docs/reference *.egg-info .pytest_cache .mypy_cache .ruff_cache demo
