# Every target sets up what it needs: on a fresh machine, Python >= 3.11, a C++20 compiler and make are enough.
# Variables: PYTHON (interpreter for the environments), DATA and CLASSES (folder and class list for `make demo`), TORCH,
# EXTRAS and TESTS (what `make test-wheel` and `make test-minimum` install and run), PEERS_DIR (where `make bench-peers`
# keeps its environments), ARGS (options of a benchmark, `ARGS=--help` lists them), BASE (commit for
# `make bench-compare`), SECONDS and CLANG (of `make fuzz`), HQF_CUDA and MAX_JOBS (see setup.py).

PYTHON ?= python3
PEERS_DIR ?= .peers
CLANG ?= clang++
SECONDS ?= 60
VENV := .venv
BIN := $(VENV)/bin
CXX_FILES := $(shell find csrc -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh')

.DEFAULT_GOAL := help
.PHONY: help setup test coverage sanitize demo lint docs bench bench-peers bench-compare bench-docs gpu-check fuzz wheel \
	test-kernels test-lowest-torch test-wheel test-minimum audit clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES) bench/peak.cpp fuzz/texts.cpp

docs: $(VENV)/.docs ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup ## Run the benchmarks
	$(BIN)/python -m pytest bench --benchmark-enable --benchmark-only --benchmark-group-by=group

bench-peers: setup ## Compare with other simulators, each in an environment of its own that this creates (ARGS=--quick for a short run)
	$(BIN)/python -m bench.peers --environments "$(PEERS_DIR)" $(ARGS)

bench-compare: setup ## Compare the speed of the kernels with another commit (BASE=commit, by default HEAD); fails if something is slower
	$(BIN)/python -m bench.regress $(or $(BASE),HEAD)

bench-docs: setup ## Write tables and charts of README.md and docs anew from bench/results
	$(BIN)/python -m bench.docs

gpu-check: setup ## Compile the GPU kernels for several architectures and tabulate what can be told without a GPU (needs nvcc)
	$(BIN)/python -m bench.gpu_static

fuzz: setup build/fuzz/texts ## Fuzz what reads outside input, SECONDS (60) for each target (needs clang and atheris)
	$(BIN)/python -m fuzz --seconds $(SECONDS) $(ARGS)

FUZZED := $(addprefix csrc/,common/plan.cpp common/program.cpp common/schedule.cpp cpu/series.cpp cpu/propagation.cpp \
	cpu/dispatch.cpp cpu/capability.cpp cpu/fourier.cpp cpu/gate.cpp cpu/unitary.cpp)

build/fuzz/texts: fuzz/texts.cpp $(CXX_FILES)
	mkdir -p build/fuzz
	$(CLANG) -std=c++20 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -Wno-psabi -DHQF_ARCH=baseline -Icsrc -Icsrc/include $< $(FUZZED) -o $@

# The wheel is made from the unpacked source distribution. auditwheel leaves out the libraries that torch brings.
wheel: setup ## Build the source distribution and the wheel into dist/
	rm -rf dist
	$(BIN)/check-sdist --no-isolation
	$(BIN)/python -m build --no-isolation
ifeq ($(shell uname),Linux)
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' --exclude 'libcudart*' \
		--wheel-dir dist dist/*-linux_*.whl
	rm dist/*-linux_*.whl
endif

dist:
	$(MAKE) wheel

TORCH ?= torch
EXTRAS ?= draw,test
comma := ,
EXTRA_OPTIONS = $(foreach extra,$(subst $(comma), ,$(EXTRAS)),--extra $(extra))
TESTS ?= tests $(if $(findstring net,$(EXTRAS)),,--ignore=tests/hqfnet --ignore=tests/interop --ignore=tests/test_fuzz.py)
ONLY_INSTALLED := import hqfkernels as h; print(h.__file__, *h.backends.native_status()); \
	assert "site-packages" in h.__file__ and h.backends.native_status()[0]

# $(1) installs into build/installed/venv; the tests run beside it, in the source distribution less the packages.
define test-installed
	rm -rf build/installed && mkdir -p build/installed
	tar -xzf dist/*.tar.gz -C build/installed --strip-components=1
	rm -r build/installed/hqfkernels build/installed/hqfnet
	$(PYTHON) -m venv build/installed/venv
	$(1) "$$(ls dist/*.whl)[$(EXTRAS)]"
	cd build/installed && venv/bin/python -c '$(ONLY_INSTALLED)'
	cd build/installed && venv/bin/python -m pytest $(TESTS)
endef

test-wheel: dist ## Install the wheel into an empty environment and test it there (TORCH=torch==2.13.0, EXTRAS=net,draw,test,dev)
	$(call test-installed,build/installed/venv/bin/python -m pip install $(TORCH))

test-minimum: dist ## The same with the lowest versions that pyproject.toml admits
	$(call test-installed,$(BIN)/uv pip compile --quiet --python build/installed/venv --resolution lowest-direct $(EXTRA_OPTIONS) \
		pyproject.toml --output-file build/installed/lowest.txt && \
		$(BIN)/uv pip install --python build/installed/venv --requirement build/installed/lowest.txt)

KERNEL_TESTS := $(addprefix tests/test_,fourier.py gate_engine.py propagation.py reproducibility.py threads.py unitary.py)
ONCE_IS_ENOUGH := compile or opcheck or processes or bad_texts or small_batches

test-kernels: setup ## Run the tests of the kernels in each instruction set that this CPU has, on one thread and on two
	@set -e; for variant in $$($(BIN)/python -c '$(VARIANTS)'); do for threads in 1 2; do \
		echo "kernels for $$variant, threads: $$threads"; \
		HQF_CPU_CAPABILITY=$$variant OMP_NUM_THREADS=$$threads \
			$(BIN)/python -m pytest $(KERNEL_TESTS) -k 'not ($(ONCE_IS_ENOUGH))'; \
	done; done
VARIANTS := import torch; from hqfkernels import _C; names = _C.build_info()["cpu_variants"]; \
	print(*names[: names.index(_C.cpu_capability()) + 1])

OPERATOR_TESTS := $(addprefix tests/test_,bank.py circuit.py export.py fourier.py functional.py gate_engine.py nn.py ops.py \
	parameter_cache.py propagation.py unitary.py)
LOWEST := import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*(d.replace(">=", "==") for d in p["dependencies"]), *p["optional-dependencies"]["test"])

test-lowest-torch: setup ## Run the tests of operators, engines, layers and errors with the lowest torch, without building again
	rm -rf build/lowest && $(PYTHON) -m venv build/lowest
	$(BIN)/uv pip install --quiet --python build/lowest $$($(BIN)/python -c '$(LOWEST)')
	build/lowest/bin/python -c 'import torch, hqfkernels; print("torch", torch.__version__, *hqfkernels.backends.native_status())'
	build/lowest/bin/python -m pytest $(OPERATOR_TESTS) -k 'not inductor'

audit: setup ## Look the newest dependencies up in the database of known vulnerabilities
	mkdir -p build
	$(BIN)/uv pip compile --quiet --all-extras --generate-hashes pyproject.toml --output-file build/audit.txt
	$(BIN)/pip-audit --strict --disable-pip --requirement build/audit.txt

clean: ## Remove everything that was built, .venv included
	rm -rf $(VENV) .peers fuzz/corpus build dist demo site *.egg-info hqfkernels/*.so .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hqfkernels needs Python >= 3.11, but $(PYTHON) is " + sys.version.split()[0] + " (choose another: make PYTHON=python3.12)")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# Everything that pyproject.toml asks for, to build and to run; torch must be there before the library is compiled.
$(VENV)/.installed: $(VENV)/.created pyproject.toml
	$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); e = p["project"]["optional-dependencies"]; print(*p["build-system"]["requires"], *p["project"]["dependencies"], *e["net"], *e["draw"], *e["test"], *e["dev"], sep="\n")' > $@.txt
	$(BIN)/python -m pip install -r $@.txt
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $@.txt
	$(BIN)/python -m pip install -r $@.txt
	touch $@

$(VENV)/.built: $(VENV)/.installed setup.py CMakeLists.txt hqfkernels/__init__.py $(CXX_FILES)
	$(BIN)/python -m pip install --verbose --no-build-isolation --no-deps --editable .
	touch $@
