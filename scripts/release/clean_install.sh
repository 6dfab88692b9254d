#!/usr/bin/env bash
# Install the wheel in dist/ into a new environment, by the steps of the containers, and use it from an empty folder.
# usage: bash scripts/release/clean_install.sh [DIST]     (DIST: a folder of wheels; dist by default)
# PYTHON and TORCH_INDEX: see scripts/containers/install.sh.
set -eu
cd "$(dirname "$0")/../.."
dist="$(cd "${1:-dist}" && pwd)"
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
# nothing of the checkout may help
unset PYTHONPATH PYTHONHOME MEDRESTORE_BUNDLES MEDRESTORE_BIWKV VIRTUAL_ENV
mkdir "$place/empty"
step() { echo "[$SECONDS s] $1"; }

step "installing into a clean environment"
bash scripts/containers/install.sh "$place/env" "$dist"
cd "$place/empty"
export PATH="$place/env/bin:$PATH"
python - <<'PYTHON'
from pathlib import Path
import sys
import medrestore_monai
from medrestore_monai.ops.biwkv import cpu
assert Path(medrestore_monai.__file__).is_relative_to(sys.prefix), medrestore_monai.__file__
assert cpu.is_available(), cpu.unavailable_reason()
PYTHON
step "medrestore demo"
medrestore demo -o demo
step "medrestore restore"
mkdir scan
cp "$(find demo/quarter_dose -name '*.dcm' | sort | head -n 1)" scan/
medrestore restore scan -o restored
[ -n "$(find restored -name '*.dcm')" ]
step "an array in Python"
python - <<'PYTHON'
import numpy as np
from medrestore_monai import Restorer, list_bundles
image = np.random.default_rng(0).normal(40, 30, (64, 48, 2)).astype(np.float32)  # (X, Y, Z) in HU
restored = Restorer("ct_denoise_restore_rwkv")(image, spacing=(0.7, 0.7, 5))
assert restored.shape == image.shape and restored.std() < image.std()
print(f"{len(list_bundles())} bundles; noise {image.std():.1f} HU before, {restored.std():.1f} HU after")
PYTHON
step "done"
