# Every target sets up what it needs: on a fresh machine, Python >= 3.11, a C++20 compiler and make are enough.
# Variables: PYTHON (interpreter for the environment), DATA and CLASSES (folder and class list for `make demo`), HQF_CUDA and MAX_JOBS (see setup.py),
# PEERS_DIR (where `make bench-peers` keeps its environments) and ARGS (options for it, `ARGS=--help` lists them).

PYTHON ?= python3
PEERS_DIR ?= .peers
VENV := .venv
BIN := $(VENV)/bin
CXX_FILES := $(shell find csrc -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh')

.DEFAULT_GOAL := help
.PHONY: help setup test coverage sanitize demo lint docs bench bench-peers gpu-check clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.built ## Create .venv, install all dependencies, compile the library

test: setup ## Run the tests
	$(BIN)/python -m pytest

coverage: setup ## Run the tests and tell which lines of hqfkernels they leave out; fails below the limit in pyproject.toml
	$(BIN)/python -m pytest --cov

sanitize: setup ## Run the compiled kernels under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer (Linux, GCC)
	csrc/tests/sanitize.sh $(abspath $(BIN))/python

demo: setup ## Train a small HQF-Net and write pictures to demo/ (DATA=folder with images/ and masks/, CLASSES=its class list)
	$(BIN)/python -m hqfnet.demo $(if $(DATA),--data "$(DATA)") $(if $(CLASSES),--classes "$(CLASSES)") --out demo

lint: setup ## Check style, types and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

docs: $(VENV)/.docs ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup ## Run the benchmarks
	$(BIN)/python -m pytest bench --benchmark-enable --benchmark-only --benchmark-group-by=group

bench-peers: setup ## Compare with other simulators, each in an environment of its own that this creates (ARGS=--quick for a short run)
	$(BIN)/python -m bench.peers --environments "$(PEERS_DIR)" $(ARGS)

gpu-check: setup ## Compile the GPU kernels for several architectures and tabulate what can be told without a GPU (needs nvcc)
	$(BIN)/python -m bench.gpu_static

clean: ## Remove everything that was built, .venv included
	rm -rf $(VENV) .peers build demo site *.egg-info hqfkernels/*.so .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hqfkernels needs Python >= 3.11, but $(PYTHON) is " + sys.version.split()[0] + " (choose another: make PYTHON=python3.12)")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# Everything that pyproject.toml asks for, to build and to run; torch must be there before the library is compiled.
$(VENV)/.installed: $(VENV)/.created pyproject.toml
	$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); e = p["project"]["optional-dependencies"]; print(*p["build-system"]["requires"], *p["project"]["dependencies"], *e["net"], *e["draw"], *e["dev"], sep="\n")' > $@.txt
	$(BIN)/python -m pip install -r $@.txt
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $@.txt
	$(BIN)/python -m pip install -r $@.txt
	touch $@

$(VENV)/.built: $(VENV)/.installed setup.py CMakeLists.txt hqfkernels/__init__.py $(CXX_FILES)
	$(BIN)/python -m pip install --verbose --no-build-isolation --no-deps --editable .
	touch $@
