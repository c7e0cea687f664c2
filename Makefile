# One command each on a fresh machine with Python >= 3.11 and make. VENV=path puts the environment elsewhere.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2

.PHONY: help setup demo test test-slow campaign notebooks docs lint format bench clean

help:
	@echo "make demo       set everything up and run the main job on made-up scans (about 2 minutes)"
	@echo "make test       set everything up and run the ordinary tests"
	@echo "make test-slow  the tests marked slow"
	@echo "make campaign   kill commands, damage files, fill disks (hours; see docs/reliability.md)"
	@echo "make notebooks  run every notebook"
	@echo "make docs       the documentation as web pages, in build/docs"
	@echo "make lint       ruff and mypy"
	@echo "make bench      the benchmarks (long; see benchmarks/RESULTS.md)"

setup: $(READY)

$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("slivit needs Python 3.11 or newer; set PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[all]"
	@touch $(READY)

demo: $(READY)
	$(BIN)/slivit demo demo --overwrite

# One thread a test process: the processes together use every core, and small tensors gain nothing from more threads.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m "not slow and not network"

test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m "slow and not network"

# Hours: 300 kills, 10,000 damaged files. CAMPAIGN_KILLS, CAMPAIGN_MUTANTS, CAMPAIGN_PAIRS change how many.
campaign: $(READY)
	SLIVIT_CAMPAIGN=full OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 tests/campaign tests/test_hostile_checkpoints.py

notebooks: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --nbmake --nbmake-timeout=900 notebooks

# A warning is an error: a link that leads nowhere, a docstring that is not laid out as it should be.
docs: $(READY)
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/adrenal.py

clean:
	rm -rf build dist docs/reference *.egg-info .pytest_cache .mypy_cache .ruff_cache demo
