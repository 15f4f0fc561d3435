# make demo [ARGS=--once]   real games through the gate into training sets, in the Dagster UI on 127.0.0.1
# make demo ARGS=--full     the same, then models: trained, judged by games, promoted, brought to every host (tens of minutes)
# make test                 ruff, pyright, pytest
# make torch                what training and models that play need; then make test tests them too
# make bench                every figure, beside its reference
# Each installs what it needs into .venv, and again only when pyproject.toml or requirements.lock changed.

SHELL  := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN    := .venv/bin
PIP     = $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint requirements.lock
INPUTS := pyproject.toml requirements.lock
TORCH  ?= torch==2.13.0

.DEFAULT_GOAL := help
.PHONY: help demo test torch lint types compiled unit bench clean

help:
	@sed -n 's/^# //p' Makefile

demo: .venv/.demo $(if $(filter --full,$(ARGS)),.venv/.torch)
	$(if $(filter --full,$(ARGS)),scripts/system-packages openssh-server=/usr/sbin/sshd)
	$(BIN)/ringrift-data demo $(ARGS)

test: .venv/.dev
	$(MAKE) --jobs=2 lint types compiled
	$(MAKE) unit

torch: .venv/.torch  # where pip would take a build with CUDA: TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu'

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev
	$(BIN)/pyright

compiled: .venv/.dev  # the machine code of rules, policies and encoders: once here, not by every process that tests
	@directory=$$(mktemp -d) && trap 'rm -r "$$directory"' EXIT && export RINGRIFT_DATA_HOME="$$directory" && \
	  $(BIN)/ringrift-data selfplay --config hex8_2p --games 1 --seed 1 --ai mcts:2,heuristic --out "$$directory/games.db" >/dev/null && \
	  $(BIN)/ringrift-data export npz --config hex8_2p --db "$$directory/games.db" --out "$$directory/set.npz" >/dev/null

unit: .venv/.dev
	scripts/system-packages chromium=chromium postgresql=pg_ctlcluster openssh-server=/usr/sbin/sshd rsync=rsync aria2=aria2c
	@$(BIN)/python -c 'import torch' 2>/dev/null || echo "torch is not installed: tests of training are left out (make torch installs it)"
	$(BIN)/pytest -n 2 --dist loadgroup $(ARGS)

bench: .venv/.dev
	scripts/system-packages postgresql=pg_ctlcluster openssh-server=/usr/sbin/sshd rsync=rsync aria2=aria2c
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf .venv .ringrift .pytest_cache .ruff_cache build *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "Python 3.11 to 3.13 is needed; say which: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || scripts/system-packages python3-venv
	$(PYTHON) -m venv .venv

.venv/.runtime: .venv/bin/python $(INPUTS)
	@echo "Installing ringrift-dagster into .venv (a few minutes the first time)"
	$(PIP) --editable .
	@touch $@

.venv/.demo: .venv/.runtime
	$(PIP) --editable '.[demo]'
	@touch $@

.venv/.dev: .venv/.runtime
	$(PIP) --editable '.[dev]'
	@touch $@

.venv/.torch: .venv/.runtime
	$(PIP) $(TORCH)
	$(PIP) --editable '.[train]'
	@touch $@
