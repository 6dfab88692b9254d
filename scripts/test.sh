#!/usr/bin/env bash
# Install what is needed and run the tests. Arguments go to pytest: bash scripts/test.sh tests/ops -x
# Without the slow tests, which train, export, start processes or restore whole images: bash scripts/test.sh -m "not slow"
set -eu
. "$(dirname "$0")/setup/install.sh" test
export OMP_NUM_THREADS=1
exec python -m pytest -n "$(python -c 'import os; print(min(4, os.cpu_count() or 1))')" "$@"
