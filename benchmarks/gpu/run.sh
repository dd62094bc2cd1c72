#!/usr/bin/env bash
# All that wants a GPU, most valuable first, in a given time:
#
#     bash benchmarks/gpu/run.sh OUT [SECONDS] [DEVICE]
#
# Each part prints its table or the end of its log, and has a limit of its own; what would begin too late is left
# out. OUT gets logs and reports. With DEVICE cpu the same commands run with nano, to see that they work.
out=$1 total=${2:-240} device=${3:-cuda}
mkdir -p "$out" && out=$(cd "$out" && pwd) && cd "$(dirname "$0")/../.." || exit 1
export PYTHONPATH="src:packages/spatialvla-client/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-/tmp/inductor}
case=4b rounds=20 batch=16 compile=--compile samples=256
patience=1
[ "$device" = cpu ] && case=nano rounds=1 batch=2 compile= samples=4 patience=10
failed=0

part() {  # NAME LIMIT COMMAND...
  local name=$1 limit=$(($2 * patience)) left=$((total - SECONDS)) code
  shift 2
  [ "$left" -lt "$((limit < 15 ? limit : 15))" ] && { echo "== $name: left out"; return; }
  timeout "$((limit < left ? limit : left))" "$@" >"$out/$name.log" 2>&1
  code=$?
  tail -n 30 "$out/$name.log" | cut -c -300
  echo "== $name: code $code at ${SECONDS} s"
  [ "$code" = 0 ] || failed=1
}
inference() {  # NAME LIMIT OPTIONS...
  local name=$1 limit=$2
  shift 2
  part "$name" "$limit" python3 benchmarks/inference.py --case $case --device "$device" $compile \
    --out "$out/$name" "$@"
}

beside=
on_cores() {  # CORES COMMAND...: parts for the processor alone, while the GPU's run
  { taskset -cp "$1" "$BASHPID" >"$out/cores_$1.log"
    shift
    device=cpu compile=
    "$@"
    exit $failed; } & beside+=" $!"
}
tiles() {
  part tiles "$total" python3 -m pytest -q -x tests/kernels
  part tile_speed "$total" python3 benchmarks/kernels.py --threads 2
}
# What stands beside a GPU often has matrix units.
if [ "$device" != cpu ] && [ "$(nproc)" -ge 12 ] && grep -qw amx_tile /proc/cpuinfo; then
  python3 -c "from spatialvla.kernels.library import build; print('matrix units:', build().matrix_units)"
  on_cores 0,1 tiles
  on_cores 2,3 inference tiles_bf16 "$total" --threads 2 --rounds 2 --precision bf16
  on_cores 4,5 inference tiles_w8a8 "$total" --threads 2 --rounds 2 --precision w8a8
  taskset -cp "6-$(($(nproc) - 1))" $$ >"$out/cores.log"  # of the parts below
fi

[ "$device" = cpu ] || nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
python3 -c "import torch, transformers; print('torch', torch.__version__, 'transformers', transformers.__version__)"
[ "$device" = cpu ] || part kernels 75 python3 benchmarks/gpu/decode.py
[ "$device" = cpu ] || part towers 45 python3 benchmarks/gpu/towers.py
inference alone 75 --batch 1 --rounds $rounds --alone --speculation benchmarks/gpu/speculation.json
inference beside 60 --batch 1 --rounds $((rounds / 2 + 1))
inference int8 60 --batch 1 --rounds $((rounds / 2 + 1)) --alone --precision int8
inference batch 45 --batch $batch --rounds 3 --alone
part training 40 python3 benchmarks/training.py --device "$device" --batch-size $samples --rounds 3 $compile
[ "$device" = cpu ] || inference fp8 40 --batch 1 --rounds 3 --alone --precision fp8
[ "$device" = cpu ] || part tests 60 python3 -m pytest -q -x -m gpu tests/model/test_optimize.py tests/model/test_decoding.py
for one in $beside; do wait "$one" || failed=1; done
echo "== all: ${SECONDS} s"
exit $failed
