# What the recipes share: how much of everything there is, and how a stage that is done is skipped.

case ${SIZE:-full} in
  full)
    suites="libero_spatial libero_object libero_goal libero_10"
    tasks="0 1 2 3 4 5 6 7 8 9"
    questions="0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17"  # of the spatial exam, those that say a place
    depth_episodes=3 demonstrations=90 mistakes=15 from_elsewhere=8  # of each task
    draw_every=6  # steps of a demonstration: many start states, few pictures of each
    depth_steps=3000 vision_steps=6000 policy_steps=9000
    evaluated=20  # episodes of each task
    ;;
  tiny)
    suites="libero_spatial libero_goal"
    tasks="0 1"
    questions="0 1"
    depth_episodes=1 demonstrations=1 mistakes=1 from_elsewhere=1
    draw_every=2
    depth_steps=5 vision_steps=5 policy_steps=5
    evaluated=1
    ;;
  *) echo "SIZE is full or tiny, not $SIZE" >&2; exit 2 ;;
esac

# Runs a command unless what it makes is there: unless FILE COMMAND...
unless() {
  if [ -e "$1" ]; then echo "Done before: $1"; else echo "\$ ${*:2}"; "${@:2}"; fi
}
