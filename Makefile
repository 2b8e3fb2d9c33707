# Every target sets up what it needs: on a fresh machine, Python >= 3.11, a C++20 compiler and make are enough.
# Variables: PYTHON (interpreter for the environment), DATA and CLASSES (folder and class list for `make demo`), HQF_CUDA and MAX_JOBS (see setup.py),
# SECONDS and CLANG for `make fuzz`.

PYTHON ?= python3
CLANG ?= clang++
SECONDS ?= 60
FUZZ_TARGETS := circuit program series propagation qasm classes checkpoint
VENV := .venv
BIN := $(VENV)/bin
CXX_FILES := $(shell find csrc -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh')

.DEFAULT_GOAL := help
.PHONY: help setup test demo lint docs bench gpu-check fuzz clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.built ## Create .venv, install all dependencies, compile the library

test: setup ## Run the tests
	$(BIN)/python -m pytest

demo: setup ## Train a small HQF-Net and write pictures to demo/ (DATA=folder with images/ and masks/, CLASSES=its class list)
	$(BIN)/python -m hqfnet.demo $(if $(DATA),--data "$(DATA)") $(if $(CLASSES),--classes "$(CLASSES)") --out demo

lint: setup ## Check style, types and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES) fuzz/texts.cpp

docs: $(VENV)/.docs ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup ## Run the benchmarks
	$(BIN)/python -m pytest bench --benchmark-enable --benchmark-only --benchmark-group-by=group

gpu-check: setup ## Compile the GPU kernels for several architectures and tabulate what can be told without a GPU (needs nvcc)
	$(BIN)/python -m bench.gpu_static

fuzz: setup build/fuzz/texts ## Fuzz what reads outside input, SECONDS (60) for each target (needs clang and atheris)
	mkdir -p fuzz/corpus/texts
	$(BIN)/python -m fuzz.seeds fuzz/corpus/texts
	build/fuzz/texts -max_total_time=$(SECONDS) -timeout=20 -rss_limit_mb=2048 -max_len=4096 -artifact_prefix=fuzz/corpus/ fuzz/corpus/texts
	for target in $(FUZZ_TARGETS); do $(BIN)/python -m fuzz.run $$target --seconds $(SECONDS) || exit 1; done

FUZZED := $(addprefix csrc/,common/plan.cpp common/program.cpp common/schedule.cpp cpu/series.cpp cpu/propagation.cpp \
	cpu/dispatch.cpp cpu/capability.cpp cpu/fourier.cpp cpu/gate.cpp)

build/fuzz/texts: fuzz/texts.cpp $(CXX_FILES)
	mkdir -p build/fuzz
	$(CLANG) -std=c++20 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -Wno-psabi -DHQF_ARCH=baseline -Icsrc -Icsrc/include $< $(FUZZED) -o $@

clean: ## Remove everything that was built, .venv included
	rm -rf $(VENV) build demo site fuzz/corpus *.egg-info hqfkernels/*.so .mypy_cache .pytest_cache .ruff_cache

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
