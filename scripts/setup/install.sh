# Sourced by the other scripts: makes .venv with this package in it, once, and puts it on the path.
# usage: . scripts/setup/install.sh EXTRA     (EXTRA: plot, test, docs or dev)
# PYTHON names another Python; TORCH_INDEX another package index for torch, for example PyTorch's own CPU builds.
extra="$1"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

fail() { echo "Error: $1" >&2; exit 1; }

python="${PYTHON:-python3}"
command -v "$python" >/dev/null || fail "there is no $python; install Python 3.10 or newer, or name it: PYTHON=python3.12"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "$python is older than 3.10; name a newer one: PYTHON=python3.12"
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "$python has no venv module; install it (Debian, Ubuntu: apt install python3-venv)"

venv="${MEDRESTORE_VENV:-.venv}"
stamp="$venv/installed-$extra"
wanted="$(cat pyproject.toml scripts/setup/constraints.txt | cksum) $("$python" --version) $PWD"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    free=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
    [ "$free" -ge 3 ] || fail "the installation needs about 3 GiB of disk, $free GiB are free in $PWD"
    if [ "$free" -lt 8 ] && [ "$(uname)" = Linux ] && [ -z "${TORCH_INDEX:-}" ]; then
        echo "$free GiB are free; with the CUDA libraries that may be too little: README.md names an index without them." >&2
    fi
    echo "Installing into $venv (a few minutes, once) ..."
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv" || fail "$python could not make a virtual environment in $venv"
    # torch first and alone: no other package then pulls another build of it
    pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" || fail "pip could not install: $*"; }
    pip ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --constraint scripts/setup/constraints.txt torch
    pip --constraint scripts/setup/constraints.txt --editable ".[$extra]"
    echo "$wanted" > "$stamp"
fi
export PATH="$PWD/$venv/bin:$PATH"
