#!/usr/bin/env bash
# Makes nano-wrist from nothing: nano with a second camera on the wrist, the arm's state and Ego3D in the robot's
# frame, for LIBERO-Spatial, -Object, -Goal and -Long.
#
#     recipes/nano-wrist.sh           # hours on a laptop
#     SIZE=tiny recipes/nano-wrist.sh # minutes: all stages with next to nothing, to see that they run
#
# It may be stopped and started again: a stage that is done is skipped, and one that was broken off goes on.
# OUT is the folder that it fills. docs/how-to/make-nano.md says what it needs, and how long each stage takes.
set -euo pipefail
OUT=${OUT:-runs/nano-wrist}
. "$(dirname "$0")/sizes.bash"

first_camera=observation.images.agentview wrist_camera=observation.images.wrist
around=(observation.images.random_0 observation.images.random_1)
from_anywhere=$first_camera+${around[0]}+${around[1]}

# 1. Demonstrations of the scripted expert, from freshly sampled start states: a few with depth, most without.
with_depth=() shown=() others=() weights=() cameras=()
for suite in $suites; do
  with_depth+=("$OUT/depth_data/$suite")
  unless "$OUT/depth_data/$suite/meta/info.json" \
    spatialvla record --suite "$suite" --tasks $tasks --episodes-per-task $depth_episodes --seed 1 --wrist \
    --cameras random --draw-every $draw_every --out "$OUT/depth_data/$suite"
  shown+=("$OUT/data/$suite") weights+=(1) cameras+=($first_camera)
  unless "$OUT/data/$suite/meta/info.json" \
    spatialvla record --suite "$suite" --tasks $tasks --episodes-per-task $demonstrations --seed 2 --wrist \
    --no-depth --draw-every $draw_every --out "$OUT/data/$suite"
done

# 2. The depth estimator, from all cameras in all suites, as each has rooms of its own. It is frozen from here on.
unless "$OUT/depth/model.safetensors" \
  spatialvla train-depth --dataset "${with_depth[@]}" --camera $first_camera "${around[@]}" $wrist_camera \
  --steps $depth_steps --minutes None --cache "$OUT/cache" --out "$OUT/depth"

# 3. One set of statistics, so that a token is the same motion in all suites, and no rotation none at all.
unless "$OUT/statistics.json" \
  spatialvla data statistics --dataset "${shown[@]}" --symmetric-rotations --cache "$OUT/cache" \
  --out "$OUT/statistics.json"

# 4. The first policy: the image encoder alone learns where to look, then all learns to act.
training="--guidance.vision-steps $vision_steps --steps $policy_steps --minutes None"
training+=" --batch-size 32 --learning-rate 5e-4"
# Now and then a camera or the state is hidden, so that the policy can do without.
dropped="--camera-dropout 0.05 --state-dropout 0.05"
unless "$OUT/first/model/config.json" \
  spatialvla train --resume --dataset "${shown[@]}" --statistics "$OUT/statistics.json" --grid uniform \
  --depth-weights "$OUT/depth" --cameras image wrist --state --ego3d-frame robot --camera $first_camera \
  $dropped $training --cache "$OUT/cache" --out "$OUT/first"

# 5. Its own mistakes: it drives for stretches, and the expert says what to do where that leads (DAgger).
for suite in $suites; do
  others+=("$OUT/data/${suite}_mistakes") weights+=(2) cameras+=($first_camera)
  unless "$OUT/data/${suite}_mistakes/meta/info.json" \
    spatialvla record --suite "$suite" --tasks $tasks --episodes-per-task $mistakes --seed 3 --wrist \
    --no-depth --draw-every $draw_every --policy "$OUT/first/model" --out "$OUT/data/${suite}_mistakes"
done

# 6. The first camera may stand elsewhere, and things, too: the spatial exam's questions, in layouts that it never draws.
for suite in $suites spatial_exam; do
  asked=$tasks
  [ $suite != spatial_exam ] || asked=$questions
  others+=("$OUT/data/${suite}_from_anywhere") weights+=(2) cameras+=("$from_anywhere")
  unless "$OUT/data/${suite}_from_anywhere/meta/info.json" \
    spatialvla record --suite "$suite" --tasks $asked --episodes-per-task $from_elsewhere --seed 4 --wrist \
    --cameras random --no-depth --draw-every $draw_every --out "$OUT/data/${suite}_from_anywhere"
done

# 7. It goes on with all kinds of demonstrations; the weights are then rounded to 16 bits,
# fast rotations, which the statistics clip, decoded as fast as they were shown, and actions read as the mean.
unless "$OUT/second/model/config.json" \
  spatialvla train --resume --policy "$OUT/first/model" --dataset "${shown[@]}" "${others[@]}" \
  --weights "${weights[@]}" --camera "${cameras[@]}" --statistics "$OUT/statistics.json" $dropped $training \
  --cache "$OUT/cache" --out "$OUT/second"
unless "$OUT/nano-wrist/config.json" \
  spatialvla export --policy "$OUT/second" --dtype fp16 --fit-rotations roll --dataset "${shown[@]}" \
  --camera $first_camera --readout mean --out "$OUT/nano-wrist"

# 8. How often it succeeds, from the benchmark's own start states. Episodes that were played are not played again.
for suite in $suites; do
  spatialvla evaluate --policy "$OUT/nano-wrist" --suite "$suite" --tasks $tasks --episodes-per-task $evaluated \
    --out "$OUT/evaluations/$suite"
done
spatialvla results "$OUT"/evaluations/* --out "$OUT"
