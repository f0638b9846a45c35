#!/usr/bin/env bash
# Train on the GPUs of one machine, or on CPU ranks: tools/dist_train.sh CONFIG RANKS [train.py options]
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT in the environment of each.
set -euo pipefail
CONFIG=$1 RANKS=$2
torchrun \
  --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$RANKS" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
  "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "${@:3}"
