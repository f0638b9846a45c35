#!/usr/bin/env bash
# Evaluate on several ranks: tools/dist_test.sh CONFIG CHECKPOINT RANKS [test.py options]
# The environment variables are those of dist_train.sh.
set -euo pipefail
CONFIG=$1 CHECKPOINT=$2 RANKS=$3
torchrun \
  --nnodes="${NNODES:-1}" --nproc_per_node="$RANKS" --rdzv_id="${RDZV_ID:-mmkd}" \
  --rdzv_backend=c10d --rdzv_endpoint="${MASTER_ADDR:-127.0.0.1}:${PORT:-29500}" \
  "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
