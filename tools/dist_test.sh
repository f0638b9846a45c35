#!/usr/bin/env bash
# Evaluate on several ranks: tools/dist_test.sh CONFIG CHECKPOINT RANKS [test.py options]
set -euo pipefail
CONFIG=$1 CHECKPOINT=$2 RANKS=$3
torchrun \
  --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$RANKS" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
  "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
