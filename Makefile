# `make setup` then `make demo` on a fresh machine; `make check` is what has to hold before a change lands.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: setup demo test check lint types slow rabbitmq fuzz corpus clean

setup: $(VENV)/.installed

$(VENV)/.installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[server,testbed,dev]'
	touch $@

demo: setup
	$(BIN)/splitcom demo $(DEMO)

test: setup
	$(BIN)/pytest -q -n 2

slow: setup
	$(BIN)/pytest -q -n 2 -m slow

# In one process, since each would start a node of its own.
rabbitmq: setup
	$(BIN)/pytest -q -m rabbitmq

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# Half a minute each; a finding ends it and lies in build/fuzz. `make corpus` adds what was found to tests/fuzz/corpus.
fuzz: setup
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	for target in packet wire frame; do $(BIN)/python -m tests.fuzz $$target -max_total_time=30 || exit 1; done

corpus: setup
	$(BIN)/python -m tests.fuzz.corpus build/fuzz

check: lint types test slow rabbitmq

clean:
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
