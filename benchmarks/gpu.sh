#!/usr/bin/env bash
# What training and evaluation cost on this machine's GPU, in at most 8 minutes (benchmarks/gpu.py says what).
#
#   bash benchmarks/gpu.sh --out FOLDER [--wheels FOLDER] [more options of benchmarks/gpu.py]
#
# Takes the python3 on the path (or PYTHON), with its torch, and downloads nothing. Packages that it lacks come from
# wheels in FOLDER (default: .whl beside benchmarks/), put into a temporary place for the time of the run; README.md
# beside this says which those are.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
wheels=$root/.whl
options=()
while [ $# -gt 0 ]; do
  case $1 in
    --wheels) wheels=$2; shift 2 ;;
    *) options+=("$1"); shift ;;
  esac
done

python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if compgen -G "$wheels/*.whl" >/dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
    --root-user-action ignore --target "$site" "$wheels"/*.whl
fi
export PYTHONPATH=$site:$root${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
if [ -z "${TMPDIR:-}" ] && [ "$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1)" -gt 50000000 ]; then
  export TMPDIR=/dev/shm # models of 15 GB come and go
fi
"$python" -m benchmarks.gpu "${options[@]}"
