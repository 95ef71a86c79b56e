# Everything needed is python3 (3.11 or newer), make and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is imported is compiled then, and kept: most of what is installed never is.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
export PYTHONDONTWRITEBYTECODE :=
# Arguments for `make run` and `make test`, as in: make run ARGS="--port 8080"
ARGS ?=
# Test processes. Many tests wait for a lease, a kill or a restart: five keep two cores busy, four did not.
WORKERS ?= 5

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check fix bench lock

help: ## Show this list.
	@echo "Minutebook: make run, then talk to it. All targets:"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-13s %s\n", $$1, $$2 }'

# The shell waits out Ctrl-C (`trap :`), so the server stops in its own time and make says nothing.
run: $(VENV)/.runtime ## Install what is needed, start Minutebook with its own PostgreSQL, and say where it listens.
	@trap : INT; $(BIN)/minutebook serve $(ARGS); status=$$?; [ $$status -eq 130 ] || exit $$status

test: $(VENV)/.dev ## Run every check and every test against a real PostgreSQL, and show the branch coverage.
	@$(MAKE) --no-print-directory -j2 check $(VENV)/.compiled
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --cov --cov-report=term $(ARGS)

check: $(VENV)/.dev ## Check style, format, types and layers without running a test.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --num-workers 2
	@$(BIN)/lint-imports

fix: $(VENV)/.dev ## Repair what the style checks can repair by themselves.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

BENCH_LOCK := $(wildcard requirements-bench.lock)
bench: $(VENV)/.dev $(if $(BENCH_LOCK),.venv-bench/.installed) ## Measure the log, the turn and a long conversation, and print the tables.
	@$(BIN)/python -m tests.benchmarks $(ARGS)

UV_COMPILE = .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade \
	--no-emit-index-url --custom-compile-command "make lock" pyproject.toml
lock: ## Pin the newest versions that fit pyproject.toml into the lock files.
	@$(call check_python)
	@$(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	@$(UV_COMPILE) --output-file requirements.lock
	@$(UV_COMPILE) --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	@$(UV_COMPILE:pyproject.toml=requirements-bench.in) --output-file requirements-bench.lock

# ---- environments: each stamp is newer than what it was made from, or it is made again
define check_python
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "Minutebook needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) -V 2>/dev/null || echo 'not there'). \
Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
endef

$(VENV)/.runtime: requirements.lock pyproject.toml
	@$(call check_python)
	@echo "Setting up $(VENV) (the first time takes a minute) ..."
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing: on Debian, apt-get install python3-venv." >&2; exit 1; }
	@$(PIP) -r requirements.lock
	@$(PIP) --no-deps -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.lock
	@$(PIP) -r requirements-dev.lock
	@touch $@

# Once, where every test process would otherwise compile all of it for itself, at the same moment.
$(VENV)/.compiled: $(VENV)/.dev
	@$(BIN)/python -m pytest --collect-only --quiet >$(VENV)/collected || { cat $(VENV)/collected; exit 1; }
	@touch $@

.venv-bench/.installed: requirements-bench.lock
	@$(call check_python)
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.lock
	@touch $@
