#!/usr/bin/env bash
# Train on the GPUs of one machine, or on CPU ranks: tools/dist_train.sh CONFIG RANKS [train.py options]
# Several machines: the same line on each, with NNODES and MASTER_ADDR (the name of one of them) in the
# environment; RANKS is what each machine starts. PORT (29500) where it is taken.
set -euo pipefail
CONFIG=$1 RANKS=$2
torchrun \
  --nnodes="${NNODES:-1}" --nproc_per_node="$RANKS" --rdzv_id="${RDZV_ID:-mmkd}" \
  --rdzv_backend=c10d --rdzv_endpoint="${MASTER_ADDR:-127.0.0.1}:${PORT:-29500}" \
  "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "${@:3}"
