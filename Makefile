# Every target sets up .venv by itself; nothing is done twice. PYTHON=python3.12 picks another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: venv check format test test-all demo clean

venv: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e ".[dev]"
	touch $@

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow and not gpu and not browser"

test-all: $(STAMP)
	$(BIN)/python -m pytest -m "not gpu"

demo: $(STAMP)
	$(BIN)/kernelmill demo

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
