# make train      trains on the embedded data
# make test       runs the quick tests; make test-slow runs the slow ones
# make check      checks style and types
# make bench      measures time and memory; DATA=PATH uses your own data, ROWS="1 2" measures only these rows of the table
# Each first makes .venv with the pinned packages; PYTHON=python3.12 chooses the interpreter.
PYTHON ?= python3
VENV := .venv/bin
INSTALLED := .venv/.installed

.PHONY: train test test-slow check bench

train: $(INSTALLED)
	$(VENV)/python train.py

test: $(INSTALLED)
	$(VENV)/python -m pytest

test-slow: $(INSTALLED)
	$(VENV)/python -m pytest -m slow $(PYTEST)

bench: $(INSTALLED)
	$(VENV)/python tests/benchmarks/bench.py $(ROWS) $(if $(DATA),--data $(DATA))

check: $(INSTALLED)
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/mypy

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"cellseg needs Python 3.11 to 3.13, but $(PYTHON) is {v[0]}.{v[1]}; run: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
# not compiled: Python compiles each module at its first use, and most of torch's are never used
	$(VENV)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	@touch $@
