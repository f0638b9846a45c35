#!/usr/bin/env bash
# All that is to be tried on a machine with a GPU, in one command: benchmarks/gpu.sh [PYTHON]
#
# Doctor, waits of the host per step, seconds per step in float32, float16 and bfloat16 with peak memory,
# one epoch of training with --amp, and with two GPUs one with nccl. Writes benchmarks/results/<device>.md.
# Each part goes on where the one before has failed; the file says which did.
set -uo pipefail
cd "$(dirname "$0")/.."
PY=$(realpath -s "${1:-.venv/bin/python}")
export PATH="$(dirname "$PY"):$PATH" PYTHONPATH="$PWD"
GPUS=$("$PY" -c 'import torch; print(torch.cuda.device_count())')
if [ "$GPUS" = 0 ]; then
  echo 'gpu.sh: torch sees no GPU here (tools/doctor.py says why)' >&2
  exit 2
fi
NAME=$("$PY" -c 'import re, torch; print(re.sub(r"\W+", "_", torch.cuda.get_device_name()).strip("_"))')
OUT=benchmarks/results/$NAME.md
WORK=work_dirs/gpu
mkdir -p benchmarks/results "$WORK"
printf '# %s\n\n%s GPUs, %s\n' "$NAME" "$GPUS" "$(date +%F)" > "$OUT"

part() { # part TITLE COMMAND...: run it and note its end
  local title=$1 status
  shift
  printf '\n## %s\n\n    %s\n\n```\n' "$title" "$*" >> "$OUT"
  "$@" > "$WORK/part.log" 2>&1
  status=$?
  tail -n 25 "$WORK/part.log" >> "$OUT"
  printf '```\n\nexit status %s\n' "$status" >> "$OUT"
  echo "$title: exit status $status"
}

TRAIN=(tools/train.py configs/shapes/rtmdet_pico_shapes.py --distill pkd
  --teacher configs/shapes/rtmdet_tiny_shapes.py --teacher-checkpoint untrained)
EPOCH=(--cfg-options train_cfg.max_epochs=1)

part 'Doctor' "$PY" tools/doctor.py
part 'Waits per step' "$PY" -m pytest -q tests/test_waits.py tests/core/test_readings.py
for amp in none fp16 bf16; do
  part "Seconds per step, amp $amp" "$PY" benchmarks/speed/step_time.py --device cuda --amp "$amp" \
    --size 800 --batch-size 8 --rounds 15 --variants 'student alone' 'all weights zero' pkd \
    'pkd, teacher exact' cwd kd fgd 'dpk light' 'dpk full' frskd \
    --out "benchmarks/speed/results/${NAME}_$amp.json"
done
[ -d data/shapes ] || part 'Data' "$PY" tools/make_shapes.py data/shapes
part 'One epoch with --amp' "$PY" "${TRAIN[@]}" --amp --work-dir "$WORK/amp" "${EPOCH[@]}"
if [ "$GPUS" -ge 2 ]; then
  part 'One epoch on two GPUs' bash tools/dist_train.sh "${TRAIN[@]:1:1}" 2 "${TRAIN[@]:2}" \
    --work-dir "$WORK/two" "${EPOCH[@]}"
fi
echo "$OUT"
