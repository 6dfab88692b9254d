#!/usr/bin/env bash
# Measure on a CPU what the documentation says of time and memory, one after the other; results under $OUT or
# ./cpu_suite_results. Needs a quiet machine, some hours for everything, or --quick: some minutes, small images.
# usage: bash scripts/benchmark/cpu_suite.sh [--quick]
# Every table has ratios of what took turns in one run. Exit code 1 where a step failed; the others run.
set -u
quick="${1:-}"
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
out="${OUT:-cpu_suite_results}"
mkdir -p "$out" && out="$(cd "$out" && pwd)" || exit 1
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python="${PYTHON:-python3}"
failed=0
step() { # NAME ARGUMENTS...
    local name="$1"
    shift
    echo "== $name"
    if ! "$python" "$@" --json "$out/$name.json" >"$out/$name.md"; then failed=1; fi
    cat "$out/$name.md"
}
if [ "$quick" = --quick ]; then
    step startup scripts/benchmark/startup.py --rounds 2
    step slices scripts/benchmark/slices.py --slices 1 5 --sizes 128 --workers 2 --rounds 2
    step networks scripts/benchmark/networks.py --quick
    step time_to_psnr scripts/benchmark/time_to_psnr.py --limit-seconds 30
else
    step startup scripts/benchmark/startup.py
    step slices scripts/benchmark/slices.py --slices 1 2 3 40 --workers 2 4 8
    step sizes scripts/benchmark/slices.py --slices 8 --sizes 128 256 512 1024
    step networks scripts/benchmark/networks.py
    step time_to_psnr scripts/benchmark/time_to_psnr.py
fi
exit $failed
