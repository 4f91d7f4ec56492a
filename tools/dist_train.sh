#!/usr/bin/env bash
# mmseg's order of arguments for `mmseg-kd launch`, whose --help tells of options and variables.
#   bash tools/dist_train.sh [options of torchrun, as --name=value] CONFIG GPUS [arguments of train]
set -euo pipefail
options=()
while [[ ${1:-} == --* ]]; do
    options+=("$1")
    shift
done
[ $# -ge 2 ] || { sed -n '2,3s/^# \{0,1\}//p' "$0" >&2; exit 1; }
config=$1 gpus=$2
shift 2
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m mmseg_kd launch ${options[@]+"${options[@]}"} "$gpus" \
    train "$config" "$@"
