#!/usr/bin/env bash
# Make the environment of the MONAI Label server, once: MONAI Label 0.8.5 needs older numpy and pydicom than the rest.
# usage: bash scripts/setup/label_env.sh [FOLDER]     (by default .venv-label; about 4 GB without the CUDA libraries)
# Run again, it installs this package anew where a file of it has changed, and else does nothing.
# PYTHON names a Python 3.11, by default python3 or else python3.11; TORCH_INDEX another package index for torch and
# torchvision, for example PyTorch's own CPU builds, where they are not to be CUDA builds.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

fail() { echo "Error: $1" >&2; exit 1; }
tested() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

env="${1:-.venv-label}"
python="${PYTHON:-python3}"
[ -n "${PYTHON:-}" ] || tested python3 || python=python3.11
tested "$python" || fail "MONAI Label 0.8.5 was tested with Python 3.11, which $python is not; name one: PYTHON=/path/to/python3.11"
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "$python has no venv module; install it (Debian, Ubuntu: apt install python3-venv)"

pip() { "$env/bin/python" -m pip install --quiet --disable-pip-version-check --constraint scripts/setup/label_constraints.txt "$@" || fail "pip could not install: $*"; }

wanted="$(cat scripts/setup/label_constraints.txt | cksum) $("$python" --version)"
if [ "$(cat "$env/installed-monailabel" 2>/dev/null)" != "$wanted" ]; then
    mkdir -p "$env"
    free=$(df -Pk "$env" | awk 'NR == 2 {print int($4 / 1048576)}')
    [ "$free" -ge 8 ] || fail "the installation needs about 8 GiB of disk, $free GiB are free in $env"
    echo "Installing MONAI Label into $env (some minutes, once) ..."
    "$python" -m venv "$env" || fail "$python could not make a virtual environment in $env"
    # torch first and alone, and no isolated builds: both would pull another build of it
    pip ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision
    pip setuptools wheel ninja
    pip --no-build-isolation monailabel monai torch torchvision numpy pydicom rich typer pytest
    echo "$wanted" > "$env/installed-monailabel"
fi

# this package, from a copy: a build leaves nothing in the checkout
ours="$(find medrestore_monai bundles pyproject.toml scripts/release/build_commands.py -type f ! -path '*/__pycache__/*' ! -name '*.so' -print0 | sort -z | xargs -0 cat | cksum)"
if [ "$(cat "$env/installed-medrestore" 2>/dev/null)" != "$ours" ]; then
    copy="$(mktemp -d)"
    trap 'rm -rf "$copy"' EXIT
    cp -r medrestore_monai bundles pyproject.toml README.md LICENSE "$copy"
    mkdir -p "$copy/scripts/release" && cp scripts/release/build_commands.py "$copy/scripts/release/"
    find "$copy" -name '*.so' -delete
    pip --no-build-isolation --no-deps --force-reinstall "$copy"
    "$env/bin/python" -m pip check --disable-pip-version-check >/dev/null || fail "the packages in $env do not fit together: $env/bin/python -m pip check"
    echo "$ours" > "$env/installed-medrestore"
fi
"$env/bin/python" - <<'PY'
from importlib.metadata import version

names = "medrestore-monai monailabel monai torch numpy pydicom".split()
print(", ".join(f"{name} {version(name)}" for name in names))
PY
