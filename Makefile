# SPDX-License-Identifier: Apache-2.0
# make demo: train, quantize, compile, run on the RTL and search, on a fresh machine.
# make test: lint, type check and all tests.
# make bench: the figures of the README's table that take minutes.
#
# PYTHON is the interpreter that makes the environment; PIP_ARGS goes to every pip call, e.g.
#   make demo PIP_ARGS="--extra-index-url URL"

PYTHON ?= python3
PIP_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
SOURCES := hw sw sim boards tests

.PHONY: demo test bench lint types pytest clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/python -m bitloop.demo

test: lint types pytest

lint: $(VENV)/.installed-test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

# The type checker follows folders, not the package mapping in pyproject.toml: show it that mapping
# as links.
types: $(VENV)/.installed-test
	rm -rf $(VENV)/types
	mkdir -p $(VENV)/types/bitloop
	ln -s $(CURDIR)/sw/* $(CURDIR)/hw $(CURDIR)/sim $(CURDIR)/boards $(VENV)/types/bitloop
	MYPYPATH=$(VENV)/types $(BIN)/mypy --package bitloop

pytest: $(VENV)/.installed-test
	$(BIN)/pytest -n 2 -m "not benchmark"

bench: $(VENV)/.installed-test
	$(BIN)/pytest -m benchmark -s tests/benchmarks

# A stamp is touched only after pip has succeeded, so an interrupted install starts again.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Bitloop needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install $(PIP_ARGS) --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install $(PIP_ARGS) --editable '.[test,boards]'
	touch $@

clean:
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache .hypothesis
