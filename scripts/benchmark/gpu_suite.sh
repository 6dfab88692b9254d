#!/usr/bin/env bash
# Test and measure on a CUDA device, within 9 minutes; results as text and JSON under $OUT or ./gpu_suite_results.
# usage: bash scripts/benchmark/gpu_suite.sh [--python PYTHON]
# PYTHON (python3 by default) must have PyTorch with CUDA. What else is missing is installed into a virtual environment
# beside the results that sees PYTHON's packages; where that fails, the steps that need it fail, and the others run.
# Exit code: 0 all steps passed, 1 some failed, 2 there is no CUDA device.
set -u
python=python3
if [ "${1:-}" = --python ]; then python="${2:?name a Python}"; fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
out="${OUT:-gpu_suite_results}"
mkdir -p "$out" && out="$(cd "$out" && pwd)" || exit 1

command -v "$python" >/dev/null || { echo "Error: there is no $python."; exit 2; }
"$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null ||
    { echo "Error: $python finds no CUDA device through PyTorch."; exit 2; }

export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=4 PYTHONUNBUFFERED=1
needs='import ignite, monai, nibabel, pydicom, pytest, tensorboard, tifffile, typer'
if ! "$python" -c "$needs" 2>/dev/null; then
    venv="${MEDRESTORE_GPU_VENV:-/tmp/medrestore_gpu_venv}"
    echo "Installing what is missing into $venv ..."
    if { [ -x "$venv/bin/python" ] || "$python" -m venv --system-site-packages "$venv"; } &&
        timeout 150 "$venv/bin/python" -m pip install --quiet --retries 1 --editable '.[test]' >"$out/install.txt" 2>&1; then
        python="$venv/bin/python"
    else
        echo "The installation failed, see install.txt; going on without."
    fi
fi

"$python" - >"$out/machine.txt" 2>&1 <<'END'
import platform, torch
print("Python", platform.python_version(), "PyTorch", torch.__version__, "CUDA", torch.version.cuda)
print(torch.cuda.get_device_properties(0))
try:
    import triton
    print("Triton", triton.__version__)
except ImportError:
    print("Triton is not installed")
END
cat "$out/machine.txt"

summary="$out/summary.txt"
printf '%-22s %-10s %s\n' step result seconds >"$summary"
failed=0
step() { # NAME SECONDS COMMAND...
    local name="$1" limit="$2" start=$SECONDS result=passed code
    shift 2
    echo "== $name"
    timeout --kill-after=10 "$limit" "$@" >"$out/$name.txt" 2>&1
    code=$?
    if [ $code -eq 124 ] || [ $code -eq 137 ]; then result=timeout; elif [ $code -ne 0 ]; then result="failed $code"; fi
    [ "$result" = passed ] || failed=1
    tail -n 25 "$out/$name.txt"
    printf '%-22s %-10s %s\n' "$name" "$result" $((SECONDS - start)) >>"$summary"
}

pytest=("$python" -m pytest -p no:cacheprovider --durations=5 -ra)
# side by side: most of the time goes into compiling the kernels for each type and layout
"$python" -c 'import xdist' 2>/dev/null && workers=(-n 6) || workers=()
step tests_operator 150 "${pytest[@]}" "${workers[@]}" tests/ops/biwkv/test_cuda.py --junitxml "$out/tests_operator.xml"
step benchmark_biwkv 60 "$python" scripts/benchmark/biwkv.py --device cuda
step training_light 45 "$python" scripts/benchmark/training.py --json "$out/training_light.json"
step tests_whole 130 "${pytest[@]}" "${workers[@]}" tests/test_gpu.py --junitxml "$out/tests_whole.xml"
step training_base 45 "$python" scripts/benchmark/training.py --network base --steps 3 --rounds 3 --json "$out/training_base.json"
step benchmark_networks 90 "$python" scripts/benchmark/networks.py --device cuda --json "$out/networks.json"

echo
cat "$summary"
exit $failed
