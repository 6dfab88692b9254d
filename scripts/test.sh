#!/usr/bin/env bash
# Install what is needed and run the tests. Arguments go to pytest: bash scripts/test.sh tests/ops -x
# --durations=15 also names the tests that take over 0.2 s of CPU time and are not marked slow.
# Without the slow tests, which train, export, start processes or restore whole images: bash scripts/test.sh -m "not slow"
set -eu
. "$(dirname "$0")/setup/install.sh" test
export OMP_NUM_THREADS=1
# each process takes tests that follow each other, which share what their file has made
exec python -m pytest -n "$(python -c 'import os; print(min(4, os.cpu_count() or 1))')" --dist worksteal "$@"
