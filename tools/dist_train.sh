#!/usr/bin/env bash
# Train on several GPUs (or CPU processes, where there is no CUDA), on one machine or many.
#   bash tools/dist_train.sh [options of torchrun] CONFIG GPUS [arguments of tools/train.py]
# Options as --name=value: --max-restarts=3 starts all ranks again, up to three times, when one
# dies, and they resume by themselves.
# Several machines: set NNODES, NODE_RANK and MASTER_ADDR on each; PORT on all alike. For restarts
# add the option --rdzv-backend=c10d and --rdzv-endpoint=MASTER_ADDR:PORT.
set -euo pipefail
options=()
while [[ ${1:-} == --* ]]; do
    options+=("$1")
    shift
done
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 1; }
config=$1 gpus=$2
shift 2
cd "$(dirname "$0")/.."
# torchrun's own default, set here so that it does not warn of it.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
address="${MASTER_ADDR:-127.0.0.1}" port="${PORT:-29500}"
if [ "${NNODES:-1}" = 1 ]; then
    # The other rendezvous, static, has one store for all starts, where ranks that are started again
    # find the addresses of those that died.
    rendezvous=(--rdzv-backend=c10d --rdzv-endpoint="$address:$port" --local-addr="$address")
else
    rendezvous=(--nnodes="$NNODES" --node_rank="${NODE_RANK:-0}"
        --master_addr="$address" --master_port="$port")
fi
exec "${PYTHON:-python3}" tools/launch.py \
    "${rendezvous[@]}" --nproc_per_node="$gpus" ${options[@]+"${options[@]}"} \
    tools/train.py "$config" --launcher pytorch "$@"
