#!/usr/bin/env bash
# Build the documentation site, strictly: a warning or a broken internal link fails.
# usage: bash scripts/docs.sh [OUTPUT]     (OUTPUT: build/docs by default; open OUTPUT/index.html)
set -eu
. "$(dirname "$0")/setup/install.sh" docs
exec python -m sphinx -W --keep-going -q -b html docs "${1:-build/docs}"
