# `make demo` and `make test` are the two commands; both make .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow soak coverage lint docs clean

demo: .venv/.runtime
	$(BIN)/python -m featpipe demo demo

# One thread a process: the tests run side by side, one process a core. Some start
# interpreters, which take 0.8 s less where featpipe's bytecode is kept.
TESTING := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest
test: .venv/.development
	$(TESTING)

# What `make test` leaves out: sdist and wheel in an environment of their own (takes a
# package index), a coordinator that is killed, long simulations, some tests that start
# many interpreters. Minutes.
slow: .venv/.development
	$(TESTING) -m slow -n 0

# The site; a broken link or an undocumented public name fails.
docs: .venv/.documentation
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The long proof: kills, errors of the disk, damaged files. Each run adds to the record
# from which docs/inside/reliability.md is written; ONLY=kills,faults runs a part of it.
MINUTES ?= 60
ONLY ?=
soak: .venv/.development
	$(BIN)/python tests/soak.py --minutes $(MINUTES) --only "$(ONLY)" \
		--record docs/inside/reliability.json --page docs/inside/reliability.md

# Branch coverage of what writes and reads files, in the processes that tests start too;
# those that are killed tell nothing. Ten minutes; docs/inside/coverage.txt has the last.
COVERING := $(patsubst %,tests/test_%.py,codes* extraction* inference* files* hostile* \
	cli_outputs small_disk repeatability refusals reprs sources streaming transformer)
coverage: .venv/.development
	$(TESTING) --cov --cov-report= $(COVERING)
	$(BIN)/python -m coverage report --precision=1 > docs/inside/coverage.txt

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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dask,dev,export,frame,plot,report]"
	touch $@ .venv/.runtime

.venv/.documentation: .venv/.development
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	touch $@

clean:
	rm -rf .venv demo site dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
