# make demo: from nothing to a first table.  make test: the default test suite.  make help: the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test test-slow lint clean
help:
	@echo "make install    make $(VENV) and install mabench with its development tools"
	@echo "make demo       install, then examine a bundled set of digits"
	@echo "make test       install, then run the default tests (under 10 minutes on two cores)"
	@echo "make test-slow  the tests that take minutes each"
	@echo "make lint       style, types and import contracts"

install: $(STAMP)
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]' -c constraints.txt
	@touch $(STAMP)

demo: install
	$(BIN)/mabench demo

test: install
	$(BIN)/python -m pytest

test-slow: install
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist *.egg-info
