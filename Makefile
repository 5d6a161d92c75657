# Every target sets up what it needs: a fresh clone wants only python3 (3.11+), make and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?=
# What is installed is in the stamp's name: without EXTRAS, whatever is there will do.
READY := $(VENV)/.ready$(addprefix -,$(EXTRAS))
EXTRA_LOCKS := $(EXTRAS:%=requirements-%.lock)
FEEDER ?=
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup test check format fix lint types coverage test-slow test-services test-hosts optimize trade reload status doctor demo demo-freqai bench docs picture lock dist release

define need_feeder
@test -n "$(FEEDER)" || { echo "name a feeder: make $@ FEEDER=feeder120b (feeders: $$(cd config && grep -ls '"feeder":' *.json | sed 's/.json//' | tr '\n' ' '))"; exit 2; }
endef

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## virtual environment with pinned packages; FreqAI's as well: make setup EXTRAS=freqai

# Two at once on a fresh clone: the second waits, then finds all ready. The kernel's lock goes on to pip and
# ends with it, however that ends.
define SET_UP_ALONE
import fcntl, os, sys
os.makedirs(sys.argv[1], exist_ok=True)
lock = os.open(os.path.join(sys.argv[1], ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("Another make sets up " + sys.argv[1] + ": waiting for it", flush=True)
    fcntl.flock(lock, fcntl.LOCK_EX)
os.set_inheritable(lock, True)
os.execvp(sys.argv[2], sys.argv[2:])
endef
export SET_UP_ALONE

ifndef SET_UP_LOCKED
$(READY): requirements.lock pyproject.toml $(EXTRA_LOCKS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another one: make setup PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(PYTHON) -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || [ "$$(uname)" != Linux ] || { echo "LightGBM needs libgomp.so.1; on Debian and Ubuntu: apt install libgomp1"; exit 1; }
	@$(PYTHON) -c "$$SET_UP_ALONE" $(VENV) $(MAKE) --silent --no-print-directory SET_UP_LOCKED=1 $@
else
$(READY): requirements.lock pyproject.toml $(EXTRA_LOCKS)
	@echo "Setting up $(VENV) (once, one to four minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@for lock in $(EXTRA_LOCKS); do $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $$lock || exit; done
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(VENV)/.ready $@
endif

# Compiled files are kept whatever the shell says: without them each worker compiles all tests anew. Three workers
# on two cores: tests that wait for a candle or a process leave the core to another.
test test-hosts coverage: export PYTHONDONTWRITEBYTECODE =

test: $(READY)  ## fast tests, about five minutes on two cores
	$(BIN)/pytest -q -n 3 --dist loadscope --no-loadscope-reorder -m "not slow" $(ARGS)

check: format lint types docs test  ## what CI runs: format, lint, types, documentation, tests and doctests

format: $(READY)
	$(BIN)/ruff format --check .

fix: $(READY)  ## format, and mend what the linter can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

coverage: $(READY)  ## what the fast tests run, line by line: a report, not a bar
	$(BIN)/pytest -q -n 3 --dist loadscope --no-loadscope-reorder -m "not slow" --cov --cov-report=term --cov-report=html $(ARGS)
	@echo "Line by line: build/coverage/html/index.html"

test-slow: $(READY)  ## slow tests: whole runs on real candles, kills, many seeds and examples
	$(BIN)/pytest -q -m "slow or hypothesis" --hypothesis-profile=thorough $(ARGS)

test-services: $(READY)  ## tests that need a server (FEEDER_TEST_POSTGRES_URL, FEEDER_TEST_INFLUX_URL/_TOKEN/_ORG)
	$(BIN)/pytest -q -m external_service $(ARGS)

test-hosts: $(READY)  ## the wheel in environments with the oldest, the newest and two more supported freqtrade
	$(BIN)/pytest -q -n 2 tests/hosts $(ARGS)

optimize: $(READY)  ## tune a feeder: make optimize FEEDER=feeder120b [ARGS="--n-trials 20"]
	$(need_feeder)
	@$(BIN)/feeder optimize --feeder $(FEEDER) $(ARGS)

# SIGUSR1 is ignored until the bot's handler stands: an early reload must not end the bot.
trade: $(READY)  ## run a feeder's bot, in dry run as configured: make trade FEEDER=feeder120b
	$(need_feeder)
	@test -f config/$(FEEDER).json || { echo "config/$(FEEDER).json does not exist (feeders: $$(cd config && grep -ls '"feeder":' *.json | sed 's/.json//' | tr '\n' ' '))"; exit 2; }
	@trap '' USR1; exec $(BIN)/freqtrade trade --config config/$(FEEDER).json --strategy LightGBMSafetyFeederStrategy $(ARGS)

reload: $(READY)  ## make a running bot load its parameters anew: make reload FEEDER=feeder120b
	$(need_feeder)
	@$(BIN)/feeder reload --feeder $(FEEDER) $(ARGS)

status: $(READY)  ## what the running bots have loaded: make status [FEEDER=feeder120b]
	@$(BIN)/feeder status --feeder $(or $(FEEDER),all) $(ARGS)

doctor: $(READY)  ## what is right with a feeder, what is not, what to do: make doctor [FEEDER=feeder120b]
	@$(BIN)/feeder doctor --feeder $(or $(FEEDER),all) $(ARGS)

demo: $(READY)  ## tune, trade, tune again and reload, against a replayed exchange
	@$(BIN)/feeder demo $(ARGS)

demo-freqai:  ## the same with freqtrade's FreqAI example, unchanged (installs FreqAI's packages)
	@$(MAKE) --silent --no-print-directory setup EXTRAS=freqai
	@$(BIN)/feeder demo --freqai $(ARGS)

bench: $(READY)  ## measure what docs/understand/figures.md says (needs real candles, about an hour)
	$(BIN)/python benchmarks/live.py
	$(BIN)/python benchmarks/reload.py
	$(BIN)/python benchmarks/tuner_speed.py

docs: $(READY)  ## the documentation as a site, from build/site/index.html on
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "build/site/index.html"

picture: $(READY)  ## make the README's picture anew (needs real candles and a Chromium)
	$(BIN)/python -m tests.reports.picture docs/assets/report.webp

dist: $(READY)  ## wheel and sdist in dist/, checked
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation --outdir dist . >/dev/null
	@$(BIN)/twine check --strict dist/*

release: $(READY)  ## changelog section, version, commit and tag, all local: make release VERSION=1.2.3
	@test -n "$(VERSION)" || { echo "name the version: make release VERSION=1.2.3 (now: $$(sed -n 's/^version = "\([^"]*\)".*/\1/p' pyproject.toml))"; exit 2; }
	@$(BIN)/python tools/release.py $(VERSION)

# The extras that `make setup` installs, by name: one that only a benchmark needs stays out.
lock: $(READY)  ## add to requirements.lock what pyproject.toml wants (newer versions: ARGS=--upgrade)
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra dev --extra docs --extra postgres --extra cluster $(ARGS) -o requirements.lock pyproject.toml
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra freqai --constraints requirements.lock $(ARGS) -o requirements-freqai.lock pyproject.toml
