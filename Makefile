# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3.11
BIN := .venv/bin
CONSTRAINTS ?=

.PHONY: setup demo test lint docs lock clean

setup: .venv/.installed

.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "MetaSelect needs Python 3.11 or newer: install it, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "Python's venv module is missing: install it (Debian and Ubuntu: apt install python3.11-venv)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS)) -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/python sample_data/demo.py

test: setup lint
	$(BIN)/python -m pytest

docs: setup
	$(BIN)/python docs/make_commands.py
	$(BIN)/python -m sphinx -W --keep-going -q -d build/doctrees docs build/docs
	@echo "Open build/docs/index.html"

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy

# PyTorch and the CUDA libraries that it brings are not locked: the first lines of the file say why.
lock: setup
	@{ grep '^#' .ci/constraints.txt; $(BIN)/python -m pip --disable-pip-version-check freeze --exclude-editable | \
	  grep -viE '^(torch|torchvision|triton|cuda-|nvidia-)'; } >.ci/constraints.new
	@mv .ci/constraints.new .ci/constraints.txt

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
