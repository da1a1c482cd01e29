# Every target makes .venv itself and installs again only when the dependency files change.
PYTHON ?= python3
# Each has a Postgres and a Chroma of its own.
WORKERS ?= 2
BIN := .venv/bin

.PHONY: demo up test faults check docs bench clean

demo: .venv/installed
	$(BIN)/memory-pipeline demo $(if $(DEMO_EXIT),--exit)

up: .venv/installed
	$(BIN)/memory-pipeline up

test: .venv/installed
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not faults"

# SIMULATION_SEEDS=200000 make faults: as many as that.
faults: .venv/installed
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m faults

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile -m "not servers" memory_pipeline_tests/unit memory_pipeline_tests/contract

# Into site/, with nothing fetched from elsewhere. The variable silences an announcement of the theme.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: .venv/installed
	$(BIN)/memory-pipeline bench capture

clean:
	rm -rf .venv site .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torch by its own name and version first: the newest one would bring gigabytes of CUDA along.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
