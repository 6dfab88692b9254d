#!/usr/bin/env bash
# Install a wheel into a new environment: the steps of both containers, and of the check of a clean installation.
# usage: bash scripts/containers/install.sh ENVIRONMENT DIST     (DIST: a folder of wheels; pip takes the one that fits)
# PYTHON names another Python; TORCH_INDEX another package index for torch: PyTorch's own CPU builds, or those for CUDA.
set -eu
environment="$1"
dist="$2"
constraints="$(dirname "$0")/../setup/constraints.txt"

fail() { echo "Error: $1" >&2; exit 1; }

[ ! -e "$environment" ] || fail "$environment exists; name a new folder"
ls "$dist"/medrestore_monai-*.whl >/dev/null 2>&1 || fail "$dist has no wheel; build it: python scripts/release/build_wheels.py"
# on CUDA, Triton compiles what it launches; an image has no compiler
case "${TORCH_INDEX:-}" in
    */cu[0-9]*) command -v cc >/dev/null || { apt-get update -qq && apt-get install -qq -y --no-install-recommends gcc libc6-dev; } ;;
esac
"${PYTHON:-python3}" -m venv "$environment"
pip() { "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
# torch first and alone: no other package then pulls another build of it
pip ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --constraint "$constraints" torch
pip --no-index --find-links "$dist" --no-deps medrestore-monai
pip --constraint "$constraints" medrestore-monai
"$environment/bin/python" -m pip check
"$environment/bin/medrestore" doctor
