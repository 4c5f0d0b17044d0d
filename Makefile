# Two commands do all the set-up: `make demo` and `make test`. Both build .venv on first use.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-all chaos lint format bench bench-reader bench-faults clean

setup: $(STAMP)

$(STAMP): pyproject.toml infra/constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "needs $(PYTHON); or name one: make PYTHON=/path/to/python3.11 setup"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || { echo "needs Python 3.11 or 3.12, $(PYTHON) is $$($(PYTHON) --version)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint infra/constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip check
	@touch $(STAMP)

# Generates a small AudioSet, serves it on loopback, ingests it on an embedded Ray, shows the store.
demo: setup
	$(BIN)/python pipeline/demo.py --folder demo

# Four runs side by side: the tests on real clusters mostly wait. What the others said is shown at the end.
QUICK := -m "not slow and not gpu"
HALF := $(sort $(wildcard tests/test_[a-l]*.py))
REST := $(addprefix --ignore=,tests/e2e tests/faults $(HALF))
test: setup
	@logs=$$(mktemp -d) && trap 'kill $$e2e $$faults $$half 2>/dev/null; rm -rf $$logs' EXIT; \
	$(BIN)/python -m pytest $(QUICK) tests/e2e >$$logs/e2e 2>&1 & e2e=$$!; \
	$(BIN)/python -m pytest $(QUICK) tests/faults >$$logs/faults 2>&1 & faults=$$!; \
	$(BIN)/python -m pytest $(QUICK) $(HALF) >$$logs/half 2>&1 & half=$$!; \
	$(BIN)/python -m pytest $(QUICK) $(REST); failed=$$?; \
	wait $$half || failed=1; wait $$e2e || failed=1; wait $$faults || failed=1; \
	for run in half e2e faults; do echo "$$run:"; cat $$logs/$$run; done; exit $$failed

test-all: setup
	$(BIN)/python -m pytest

# An ingest of 204 clips whose workers, nodes, server and driver are killed thirty times; 510 mutated media files, alone
# and as the clips of a job.
chaos: setup
	$(BIN)/python -m pytest -m slow tests/faults

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy stores pipeline models attacks
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Each prints a table and writes benchmarks/results/<name>.json with hardware and versions.
bench: setup
	$(BIN)/python benchmarks/plan.py --json benchmarks/results/plan.json
	$(BIN)/python benchmarks/ingest.py --json benchmarks/results/ingest.json
	$(BIN)/python benchmarks/metrics.py --json benchmarks/results/metrics.json
	$(BIN)/python benchmarks/trainer.py --json benchmarks/results/trainer.json
	$(BIN)/python benchmarks/attack.py --json benchmarks/results/attack.json
	$(BIN)/python benchmarks/scale.py --json benchmarks/results/scale.json
	$(MAKE) bench-reader bench-faults

# Installs the peers (LitData, MosaicML streaming) into an environment of their own in the temporary folder.
bench-reader: setup
	$(BIN)/python benchmarks/reader.py --json benchmarks/results/reader.json

# Installs video2dataset into an environment of its own in the temporary folder (6 GB).
bench-faults: setup
	$(BIN)/python benchmarks/faults.py --json benchmarks/results/faults.json

clean:
	rm -rf demo store build *.egg-info
