#!/usr/bin/env bash
# The compiled kernels under sanitizers: `make sanitize`. Nothing that is installed is touched; all is in build/.
#
#   csrc/tests/sanitize.sh PYTHON [arguments of pytest, instead of the default tests]
#
# 1. AddressSanitizer and UndefinedBehaviorSanitizer, in Python: the tests that reach compiled code. Leaks are not looked
#    for here, because Python and torch keep memory until the end on purpose.
# 2. The same without Python: csrc/tests/threads.cpp, leaks included.
# 3. ThreadSanitizer: the same program. Not in Python: torch's OpenMP is not compiled for it, and what the sanitizer
#    cannot see it reports as races.
#
# Left out of 1: tests of torch.compile and of runs without the library, which spend minutes in code that is not ours, and
# the growth of memory, as this sanitizer keeps what was freed for a while.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
shift
tests=("$@")
if ((!${#tests[@]})); then
  tests=(tests/test_{ops,gate_engine,fourier,propagation,unitary,bank,nn,parameter_cache,variants,gpu_emulated,threads,memory}.py)
fi
skipped="not compile and not opcheck and not no-library and not leave_no_memory"

# build NAME SANITIZERS: the package with its library in build/sanitized-NAME.
build() {
  HQF_SANITIZE=$2 HQF_CUDA=0 "$python" setup.py --quiet build \
    --build-base "build/sanitized-$1" --build-lib "build/sanitized-$1/site"
}

build address address,undefined
echo "--- AddressSanitizer, UndefinedBehaviorSanitizer: Python tests"
compiler=${CXX:-c++}
site=$PWD/build/sanitized-address/site
run() {
  env LD_PRELOAD="$($compiler -print-file-name=libasan.so) $($compiler -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 HQF_SANITIZE=address,undefined \
    PYTHONMALLOC=malloc PYTHONSAFEPATH=1 PYTHONPATH="$site:$PWD" "$python" "$@"
}
run -c 'import sys, torch, hqfkernels._C as c; sys.exit(not c.__file__.startswith(sys.argv[1]))' "$site"
run -m pytest -o pythonpath= -k "$skipped" "${tests[@]}"

echo "--- AddressSanitizer, UndefinedBehaviorSanitizer: without Python"
"$python" -m tests.kernel_texts >build/kernel_texts
build/sanitize-address-undefined/threads <build/kernel_texts
HQF_CPU_CAPABILITY=baseline build/sanitize-address-undefined/threads <build/kernel_texts

echo "--- ThreadSanitizer"
build thread thread
build/sanitize-thread/threads <build/kernel_texts
