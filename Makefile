# `make demo` and `make test` are the two commands; both make .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test soak lint clean

demo: .venv/.runtime
	$(BIN)/python -m featpipe demo demo

# One thread a process: the tests run side by side, one process a core.
test: .venv/.development
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

# The long proof: kills, errors of the disk, damaged files; writes docs/inside/reliability.md.
MINUTES ?= 60
SEED ?= 0
soak: .venv/.development
	$(BIN)/python tests/soak.py --minutes $(MINUTES) --seed $(SEED) \
		--page docs/inside/reliability.md

lint: .venv/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.runtime: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

# Every extra but timm, which is large and tested only where it is installed.
.venv/.development: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,export,frame,plot,report]"
	touch $@ .venv/.runtime

clean:
	rm -rf .venv demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
