# Needs nothing but make and Python 3.11 or newer; everything else goes into the folder .venv.
#   make demo PYTHON=python3.12      another interpreter
#   make demo VENV=/path/to/venv     another environment
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
REPORTS ?= reports
# Without an NVIDIA GPU the CPU build of torch (200 MB instead of 3 GB) is tried first; empty: always the default build.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test lab check notebooks clean

help: ## show this list
	@echo "mlmd: from an atomistic trajectory to a coarse-grained simulation"
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.stamp-notebooks ## set up, run the report on the shipped data, say where the HTML is
	@$(BIN)/mlmd report --output $(REPORTS)/demo $(ARGS)

test: $(VENV)/.stamp-test ## set up, run the tests
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest $(ARGS)

lab: $(VENV)/.stamp-notebooks ## set up, open JupyterLab on notebooks/
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m jupyterlab --notebook-dir=notebooks $(ARGS)

check: $(VENV)/.stamp-test ## lint, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

notebooks: $(VENV)/.stamp-test ## run the tutorials cell by cell and compare the outputs marked for it
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} MLMD_HEADLESS=1 MLMD_FAST=1 \
	  $(BIN)/python -m pytest --nbval-lax --nbval-current-env notebooks/tutorials $(ARGS)

clean: ## remove the environment and the caches, keep runs and reports
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
	  "Python 3.11 or newer is needed, " + sys.executable + " is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot create an environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

$(VENV)/.stamp-torch: constraints.txt | $(BIN)/python
	@$(BIN)/python -c 'import torch' 2>/dev/null || command -v nvidia-smi >/dev/null || [ -z "$(TORCH_CPU_INDEX)" ] || \
	  { echo "installing torch (CPU build)"; $(PIP) --quiet --retries 1 --timeout 30 --no-deps --index-url $(TORCH_CPU_INDEX) -c constraints.txt torch; } || \
	  echo "$(TORCH_CPU_INDEX) cannot be reached: taking the default build"
	@touch $@

$(VENV)/.stamp-notebooks: pyproject.toml constraints.txt $(VENV)/.stamp-torch
	@echo "installing mlmd and its notebooks (a few minutes the first time)"
	@$(PIP) -c constraints.txt -e '.[notebooks]'
	@touch $@

$(VENV)/.stamp-test: $(VENV)/.stamp-notebooks
	@echo "installing what the tests need"
	@$(PIP) -c constraints.txt -e '.[notebooks,formats,reference,test]'
	@touch $@
