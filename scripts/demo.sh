#!/usr/bin/env bash
# Install what is needed and restore a real CT series: simulate quarter dose, restore, write DICOM, score and show it.
# usage: bash scripts/demo.sh [OUTPUT]     (OUTPUT: demo_output by default; replaced)
set -eu
. "$(dirname "$0")/setup/install.sh" plot
exec medrestore demo -o "${1:-demo_output}" --overwrite
