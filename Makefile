# Every target does its own set-up: on a bare Debian with Python 3.11, make and git nothing has to be installed first.

VENV := .venv
LOWEST := .venv-lowest
REAL := .venv-real
PY := $(VENV)/bin/python
SCALE ?= 1
# Tests side by side; two fit the smallest machine. A module stays in one process: its fixtures cost the most.
JOBS ?= 2
SPREAD := -n $(JOBS) --dist loadfile
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-lowest check format test-real screenshots bench soak lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r t d; do printf '%-18s %s\n' "$$t" "$$d"; done

setup: ## the locked environment in .venv; at once when nothing changed
	@scripts/setup $(VENV)

demo: setup ## the whole story on this machine, no account: write, kill, lose the disk, restore
	@$(VENV)/bin/sidecar demo $(ARGS)

test: setup ## the core's tests; ARGS='-k name' narrows, JOBS=0 runs them in one process
	$(PY) -m pytest $(SPREAD) $(ARGS)

test-lowest: ## the stores' tests with the oldest Hub client that the package accepts
	@scripts/setup $(LOWEST) requirements/lowest.lock
	$(LOWEST)/bin/python -m pytest tests/stores $(SPREAD) $(ARGS)

check: setup ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: setup ## let ruff rewrite what `make check` would complain about
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

test-real: ## tests against real peers, which it installs: Chromium, promtool, Gradio, Streamlit, n8n
	@scripts/real $(REAL)
	$(REAL)/bin/python -m pytest -m real tests/real $(ARGS)

screenshots: ## the pictures in docs/, of the real pages in a real Chromium
	@scripts/real $(REAL)
	$(REAL)/bin/python -m tests.real.screenshots docs/pictures

bench: setup ## each claim about speed or size, measured on this machine
	$(PY) -m bench $(ARGS)

soak: setup ## kills, faults, fuzz and a long run; SCALE=0.1 takes a quarter of an hour at most
	$(PY) -m bench.soak --scale $(SCALE) $(ARGS)

lock: setup ## resolve the newest allowed versions into requirements/*.lock
	@scripts/lock $(ARGS)

clean: ## remove the environment, caches and build results
	rm -rf $(VENV) $(LOWEST) $(REAL) tests/real/node_modules tests/real/n8n/node_modules tests/real/n8n/install.log build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
