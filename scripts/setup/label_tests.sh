#!/usr/bin/env bash
# Test the MONAI Label app against a real MONAI Label server and a real Orthanc, both on this machine, without network.
# usage: bash scripts/setup/label_tests.sh [ARGUMENTS OF PYTEST]
# LABEL_ENV names the folder of the environment, by default .venv-label. Needs Debian's packages orthanc and
# orthanc-dicomweb: as root they are installed, else ask for them (apt install orthanc orthanc-dicomweb).
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

fail() { echo "Error: $1" >&2; exit 1; }

export PATH="$PATH:/usr/sbin"
if ! command -v Orthanc >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq && apt-get install -qq -y --no-install-recommends orthanc orthanc-dicomweb >/dev/null || true
fi
command -v Orthanc >/dev/null || fail "there is no Orthanc to test with (apt install orthanc orthanc-dicomweb)"
[ -n "$(ls /usr/share/orthanc/plugins/libOrthancDicomWeb.so* 2>/dev/null)" ] || fail "Orthanc has no DICOMweb plugin here (apt install orthanc-dicomweb)"

env="${LABEL_ENV:-.venv-label}"
bash scripts/setup/label_env.sh "$env"
export OMP_NUM_THREADS=1
tests=("$env/bin/pytest" -p no:cacheprovider "$@" tests/label_app)
# a network with nothing in it but this machine: whatever would be downloaded fails; and all processes end with the tests
apart=(unshare --map-root-user --net --pid --fork --kill-child --mount-proc)
if "${apart[@]}" ip link set lo up 2>/dev/null; then
    exec "${apart[@]}" sh -c 'ip link set lo up && exec "$@"' tests "${tests[@]}"
fi
echo "Note: the network cannot be cut off here (unshare); the tests run with it."
exec "${tests[@]}"
