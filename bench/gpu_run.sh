#!/usr/bin/env bash
# Builds the libraries, tests and times them on a machine with a GPU, in less than nine minutes and without a network.
#
#   bench/gpu_run.sh [folder for results]           default: gpu-results
#
# Needs nvcc, a C++ compiler, cmake, ninja, torch >= 2.10 with CUDA, pytest, pytest-benchmark; takes
# compute-sanitizer if there is one. PYTHON names the interpreter, WHEELS a folder of optional wheels (PennyLane; for
# cuStateVec all that `pip download cuquantum-python-cu13` brings), which are installed into the results folder. Leaves
# summary.json, gpu.json (timings), and a log of each step; a step that fails does not keep the later ones from running,
# but the script then ends with status 1.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:-gpu-results}" && cd "${1:-gpu-results}" && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
jobs=${MAX_JOBS:-$(nproc)}
steps=()
failed=0

# step NAME SECONDS COMMAND...: runs the command with a time limit, its output in NAME.log.
step() {
  local name=$1 limit=$2 began=$SECONDS status=0
  shift 2
  timeout --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
  steps+=("{\"step\": \"$name\", \"status\": $status, \"seconds\": $((SECONDS - began))}")
  echo "$name: status $status after $((SECONDS - began)) s"
  if ((status)); then
    failed=1
    tail -n 25 "$out/$name.log"
  fi
}

if [[ -n ${WHEELS:-} ]]; then
  step wheels 50 "$python" -m pip install --quiet --no-index --no-deps --target "$out/site" "$WHEELS"/*.whl
  export PYTHONPATH="$out/site:$PYTHONPATH"
  # cuQuantum Python looks for libraries in site-packages, which this folder is not, and where the loader looks.
  export LD_LIBRARY_PATH="$out/site/cuquantum/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi

# Machine code for this device alone: three times faster to build than the default.
settings=$("$python" - "$PWD" <<'END'
import sys
from pathlib import Path

import torch

root = Path(sys.argv[1])
capability = "%d%d" % torch.cuda.get_device_capability()
version = next(l.split('"')[1] for l in (root / "hqfkernels/__init__.py").open() if l.startswith("__version__"))
print(
    f"-DCMAKE_CUDA_ARCHITECTURES={capability}-real",
    f"-DHQF_OUTPUT_DIR={root}/hqfkernels",
    f"-DHQF_TORCH_CUDA={torch.version.cuda}",
    f"-DHQF_TORCH_DIR={Path(torch.__file__).parent}",
    f"-DHQF_VERSION={version}",
    f"-DPython_EXECUTABLE={sys.executable}",
)
END
) || exit 1
build() {
  # shellcheck disable=SC2086  # one word for each setting
  cmake -S . -B "$out/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DHQF_CUDA=1 $settings &&
    cmake --build "$out/build" --parallel "$jobs"
}
export settings out jobs
export -f build
step build 130 bash -c build
step tests 160 "$python" -m pytest -q -p no:cacheprovider -m gpu --junitxml="$out/tests.xml" tests/test_gpu.py

# The checkers see single allocations only without torch's cache.
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck initcheck; do
    step "$tool" 40 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$python" -m pytest -q -p no:cacheprovider -m gpu tests/test_gpu.py \
      -k "small_strided or (small_layered and ([4- or [6- or [10-))"
  done
fi

step benchmarks 110 "$python" -m bench.gpu --output "$out/gpu.json" --seconds 70

"$python" - "$out" "$(IFS=,; echo "[${steps[*]}]")" <<'END'
import json
import sys
from pathlib import Path

import torch

out, steps = Path(sys.argv[1]), json.loads(sys.argv[2])
summary = {"steps": steps, "torch": torch.__version__, "cuda": torch.version.cuda}
if torch.cuda.is_available():
    from bench.gpu import device

    summary["device"] = device()
timings = out / "gpu.json"
if timings.exists():
    summary["timings"] = json.loads(timings.read_text())
(out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
END
exit "$failed"
