#!/usr/bin/env bash
# mmseg's order of arguments for `mmseg-kd launch`, whose --help tells of several machines.
#   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test]
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,3s/^# \{0,1\}//p' "$0" >&2; exit 1; }
config=$1 checkpoint=$2 gpus=$3
shift 3
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m mmseg_kd launch "$gpus" test "$config" "$checkpoint" "$@"
