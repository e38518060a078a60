# Every target does its own set-up: Python 3.11 (or later) and make are all that must be there.
#   make serve PORT=8001 HOST=0.0.0.0
#   make serve TORCH_INDEX=<url of PyTorch's CPU index>     torch's CPU build: 0.2 GB, not 3 GB
#   make serve PYTHON=/path/to/python3.12

PYTHON ?= $(or $(shell command -v python3.11),python3)
# Not from the environment: some shells export HOST as the name of the machine.
HOST =
PORT ?=
CONFIG ?= serve_config.yaml
TORCH_INDEX ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
# Tests start real processes and wait for real sockets: on a busy machine one may fail that passes alone. It is tried
# once more, and the summary names it.
AGAIN := --reruns 1 -r fEsR
# A set-up is done once: these files say that it was, and are older than what it depends on when it must be redone.
RUN := .venv/.installed-run
DEV := .venv/.installed-dev

export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help serve test test-fast fuzz lint types bench doctor constraints clean clean-all

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(RUN) ## Run the service in the foreground; HOST=, PORT= and CONFIG= choose where and what
	@exec $(BIN)/asr-serve serve --config $(CONFIG) $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT))

test: $(DEV) ## Run all tests
	$(BIN)/python -m pytest -n auto $(AGAIN) -m "not server and not slow"
	$(BIN)/python -m pytest -n 2 $(AGAIN) --dist loadgroup -m "server or slow"

test-fast: $(DEV) ## Run the tests that need no running server and are quick
	$(BIN)/python -m pytest -n auto -m "not server and not slow"

fuzz: $(DEV) ## Throw 10 000 made-up requests at every HTTP route
	FUZZ_EXAMPLES=10000 $(BIN)/python -m pytest tests/test_fuzz.py

lint: $(DEV) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV) ## Check types (mypy --strict)
	$(BIN)/mypy

bench: $(DEV) ## Measure the server against its own engines and FunASR's pipeline
	$(BIN)/python -m benchmarks.files --models starter --concurrency 1,8

doctor: $(RUN) ## Say what is wrong with this machine, and what to do
	@$(BIN)/asr-serve doctor --config $(CONFIG)

constraints: $(DEV) ## Write what is installed now into constraints.txt
	@{ echo '# What `make serve` and `make test` install, exactly. Made by `make constraints`.'; \
	  $(BIN)/python -m pip freeze --exclude-editable | sed -e 's/+[a-z0-9]*$$//' -e '/^asr-serve/d'; } > constraints.txt.new
	@mv constraints.txt.new constraints.txt

clean: ## Remove caches
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis dist *.egg-info
	find serve_app deployments starter benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-all: clean ## ... and the virtual environment, checkpoints of trainings and benchmark models
	rm -rf .venv build

$(BIN)/python:
	@$(PYTHON) -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed, with its venv module. If it is elsewhere: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@echo "Setting up .venv ..."
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/.installed-torch: constraints.txt | $(BIN)/python
ifneq ($(TORCH_INDEX),)
	@echo "Installing torch from $(TORCH_INDEX) ..."
	$(PIP) --no-deps --index-url $(TORCH_INDEX) -c constraints.txt torch
endif
	@touch $@

$(RUN): pyproject.toml constraints.txt .venv/.installed-torch
	@echo "Installing the service (once; several minutes on a fresh machine) ..."
	$(PIP) -c constraints.txt -e '.[plot,qwen]'
	@touch $@

$(DEV): $(RUN)
	@echo "Installing what tests and checks need (once) ..."
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@
