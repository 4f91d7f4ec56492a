#!/usr/bin/env bash
# Train on several GPUs (or CPU processes, where there is no CUDA), on one machine or many.
#   bash tools/dist_train.sh [options of torchrun] CONFIG GPUS [arguments of tools/train.py]
# Options as --name=value: --max-restarts=3 starts all ranks again, up to three times, when one
# dies, and they resume by themselves.
# Several machines: set NNODES, NODE_RANK and MASTER_ADDR on each; PORT on all alike.
set -euo pipefail
options=()
while [[ ${1:-} == --* ]]; do
    options+=("$1")
    shift
done
[ $# -ge 2 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 1; }
config=$1 gpus=$2
shift 2
cd "$(dirname "$0")/.."
# torchrun's own default, set here so that it does not warn of it.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "${PYTHON:-python3}" tools/launch.py \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" ${options[@]+"${options[@]}"} \
    tools/train.py "$config" --launcher pytorch "$@"
