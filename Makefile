# Everything that a fresh machine with Python and make needs. `make` alone lists the targets.
#
# PYTHON=python3.12       the Python that .venv is made with (3.11 or newer)
# ACCELERATOR=cpu|gpu     which faiss and torch; detected when unset
# TORCH_INDEX=URL         a further package index for torch. On a Linux machine without a GPU, PyTorch's own CPU index
#                         spares gigabytes of CUDA libraries; where pip already finds a CPU build, nothing is needed.

TABLE ?= quickstart
SCALE ?= quick
VENV ?= .venv
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11 python,$(shell \
	$(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
ACCELERATOR ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
TORCH_INDEX ?=

BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq -c constraints.txt
LOCKED := pyproject.toml constraints.txt
CODE := retrieval_kd tests benchmarks experiments

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install install-dev install-bench reproduce-table test test-slow test-all check format bench lock clean docker-build

help: ## list the targets
	@echo "make TARGET"
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1|/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name text; do \
		printf '  %-18s %s\n' "$$name" "$$text"; done

install: $(VENV)/.installed-$(ACCELERATOR) ## make .venv with what this machine can use; commands in .venv/bin
install-dev: $(VENV)/.installed-dev ## install, and what tests and checks need
install-bench: $(VENV)/.installed-bench ## install, and what the benchmarks compare with

reproduce-table: install ## bring a table up to date and print it: TABLE=quickstart SCALE=quick
	@$(BIN)/retrieval-kd table $(TABLE) scale=$(SCALE)

test: install-dev ## the fast tests: offline, no GPU
	@$(BIN)/python -m pytest

test-slow: install-dev ## the tests that take longer: whole runs, compiled engines, other libraries beside ours
	@$(BIN)/python -m pytest -m "slow and not network $(if $(filter gpu,$(ACCELERATOR)),,and not gpu)"

test-all: install-dev ## every test that this machine can run, slow ones too
	@$(BIN)/python -m pytest -m "not network $(if $(filter gpu,$(ACCELERATOR)),,and not gpu)"

check: install-dev ## lint, format, types, import layers, every config option
	@$(BIN)/ruff check $(wildcard $(CODE))
	@$(BIN)/ruff format --check $(wildcard $(CODE))
	@$(BIN)/python -m mypy
	@$(BIN)/python -m pytest -m "not network" $(wildcard tests/test_architecture.py tests/test_configs.py)

format: install-dev ## rewrite the code in the house format
	@$(BIN)/ruff check --fix-only --quiet $(wildcard $(CODE))
	@$(BIN)/ruff format $(wildcard $(CODE))

bench: install-bench ## measure against the bars; result files go to benchmarks/results
	@set -e; for script in $(sort $(wildcard benchmarks/bench_*.py)); do echo "$$script"; $(BIN)/python $$script; done

# Resolved from nothing, so versions move. torch keeps its number: change it in constraints.txt by hand first.
lock: $(BIN)/python ## resolve all dependencies anew and write constraints.txt
	@echo "resolving every extra (minutes; nothing is installed)"
	@$(BIN)/python -m pip install -qq --dry-run --ignore-installed --report $(VENV)/lock.json \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch==$(TORCH) '.[cpu,quickstart,bench,wandb,optuna,joblib,submitit,seismic,plots,nq,dev]'
	@$(BIN)/python -m pip install -qq --dry-run --ignore-installed --no-deps --report $(VENV)/lock-gpu.json \
		faiss-gpu || echo "no faiss-gpu for this platform: its version is left out"
	@$(BIN)/python -c "$$WRITE_LOCK" $(VENV)/lock.json $(VENV)/lock-gpu.json > $(VENV)/constraints.txt
	@mv $(VENV)/constraints.txt constraints.txt
	@grep -c == constraints.txt | sed 's/$$/ versions in constraints.txt/'

clean: ## remove .venv, caches and builds; outputs/ stays
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find retrieval_kd tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

docker-build: ## build the image: ACCELERATOR=cpu|gpu
	docker build -f docker/Dockerfile --build-arg ACCELERATOR=$(ACCELERATOR) \
		--build-arg TORCH_INDEX=$(TORCH_INDEX) -t retrieval-kd:$(ACCELERATOR) .

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found; name one: make PYTHON=/path/to/python3"; exit 1; }
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu install python3-venv"; exit 1; }

# torch first and alone: resolved together with the rest, an index may give a build for hardware that is not there.
$(VENV)/.installed-$(ACCELERATOR): $(LOCKED) | $(BIN)/python
	@echo "installing torch $(TORCH) ($(ACCELERATOR))"
	@$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch==$(TORCH)
	@echo "installing retrieval_kd and what the quick table needs"
	@$(PIP) -e '.[$(ACCELERATOR),quickstart,wandb]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-$(ACCELERATOR)
	@echo "installing what tests and checks need"
	@$(PIP) -e '.[$(ACCELERATOR),quickstart,wandb,dev]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-$(ACCELERATOR)
	@echo "installing what the benchmarks compare with"
	@$(PIP) -e '.[$(ACCELERATOR),quickstart,bench]'
	@touch $@

define WRITE_LOCK
import json, pathlib, sys
names = {}
for report in map(pathlib.Path, sys.argv[1:]):
    for item in json.loads(report.read_text())["install"] if report.exists() else []:
        names[item["metadata"]["name"].lower().replace("_", "-")] = item["metadata"]["version"].split("+")[0]
names.pop("retrieval-kd", None)
print("# The exact versions that this project is run and tested with. Written by `make lock`; not edited by hand,")
print("# torch excepted. CUDA libraries are left to torch, which pins its own.")
print(*(f"{name}=={version}" for name, version in sorted(names.items())), sep="\n")
endef
export WRITE_LOCK
