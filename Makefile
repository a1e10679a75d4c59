# uv if it is there, else venv and pip. Both end in .venv with the package (editable) and its development group.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV := $(shell command -v uv 2>/dev/null)

.PHONY: help run test check unit format package clean

help: ## Show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(STAMP): pyproject.toml
ifdef UV
	uv venv --quiet --allow-existing --python '>=3.11,<3.14' $(VENV)
	uv pip install --quiet --python $(BIN)/python -e . --group dev
else
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet -e . --group dev
endif
	@touch $@

run: $(STAMP) ## Set up everything and start the server (ARGS="--port 9000" adds flags); it shows how to try the model `demo`
	$(BIN)/mlx-server-nano $(ARGS)

test: check unit ## Set up everything, then lint, types, the import contract and all tests

check: $(STAMP) ## Lint, types and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

unit: $(STAMP) ## The tests alone (ARGS="-k name" chooses)
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

format: $(STAMP) ## Let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

package: $(STAMP) ## Build the wheel and the source distribution into dist/
	rm -rf dist
	$(BIN)/python -m hatchling build

clean: ## Remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
