# make demo: from nothing to a first table.  make test: the default test suite.  make help: the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs

.PHONY: help install demo test test-slow test-lowest lint docs build clean
help:
	@echo "make install    make $(VENV) and install mabench with its development tools"
	@echo "make demo       install, evaluate a bundled set of digits, and print the path of its page"
	@echo "make test       install, then run the default tests (under 10 minutes on two cores)"
	@echo "make test-slow  the tests that take minutes each"
	@echo "make test-lowest  the default tests with the oldest dependencies, in an environment of their own"
	@echo "make lint       style, types and import contracts"
	@echo "make docs       the documentation site: open site/index.html"
	@echo "make build      wheel and sdist in dist/ (.ci/wheel tries them in an empty environment)"

install: $(STAMP)
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]' -c constraints.txt
	@touch $(STAMP)

demo: install
	$(BIN)/mabench demo

# two processes of one thread each: most tests use one core
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2

# on Python 3.11 or 3.12: the oldest NumPy that is allowed has no wheels for 3.13
TESTS ?= tests
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet -e '.[dev]' -c constraints-lowest.txt
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2 --dist loadfile $(TESTS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python dev/house.py
	$(BIN)/python dev/reference.py --check
	$(BIN)/python dev/schemas.py --check
	$(BIN)/python dev/sentences.py --check

docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open site/index.html"

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -e '.[dev,docs]' -c constraints.txt
	@touch $(DOCS_STAMP)

# a folder called build from an earlier run would end up in the wheel
build: install
	rm -rf build dist
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) .venv-lowest build dist site *.egg-info
