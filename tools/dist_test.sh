#!/usr/bin/env bash
# Measure on several GPUs (or CPU processes, where there is no CUDA), on one machine or many.
#   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
# Several machines: set NNODES, NODE_RANK and MASTER_ADDR on each; PORT on all alike.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 1; }
config=$1 checkpoint=$2 gpus=$3
shift 3
cd "$(dirname "$0")/.."
# torchrun's own default, set here so that it does not warn of it.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "${PYTHON:-python3}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" \
    tools/test.py "$config" "$checkpoint" --launcher pytorch "$@"
