"""The same policy on the same start states of LIBERO: through vla-eval's harness, and by `spatialvla evaluate`.

MUJOCO_GL=egl python benchmarks/vla_eval_agreement.py --results runs/…/results.json --episodes 2 --out
runs/agreement

Plays whole tasks with `vla-eval run --no-docker`, two at a time, and keeps each task's result, so that it can
be stopped and called again; then compares episode by episode.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import tyro
import vla_eval

from spatialvla import Policy
from spatialvla.evaluation.results.intervals import Pairs, wilson_interval
from spatialvla.evaluation.results.vla_eval import read_vla_eval
from spatialvla.serving.engine.service import service_for
from spatialvla.serving.vla_eval.conventions import LIBERO
from spatialvla.serving.vla_eval.model_server import VlaEvalServer

Outcomes = dict[tuple[int, int], tuple[bool, int]]
"""(task, start state) -> whether the episode succeeded, after how many steps."""


@dataclass(frozen=True)
class Options:
    results: Path
    """results.json of `spatialvla evaluate` with the same policy."""

    policy: str = "nano"
    tasks: tuple[int, ...] = tuple(range(10))
    episodes: int = 2
    """Of each task, from start state 0 on."""

    shards: int = 2
    minutes: float = 9.0
    """Start no further task after so long."""

    render: str = "gpu"
    """The harness's --render; its "gpu" leaves MUJOCO_GL alone, "cpu" needs OSMesa."""

    out: Path = Path("runs/vla-eval-agreement")


def main(options: Options) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no player is left behind
    record = json.loads(options.results.read_text())
    names = {entry["task"]: entry["instruction"] for entry in record["tasks"]}
    options.out.mkdir(parents=True, exist_ok=True)
    missing = [task for task in options.tasks if not _file(options, task).exists()]
    began = time.monotonic()
    if missing:
        service = service_for(Policy.from_pretrained(options.policy))
        with vla_eval.serve_background(VlaEvalServer(service, LIBERO)) as server:
            running: list[subprocess.Popen[bytes]] = []
            try:
                while missing or running:
                    late = time.monotonic() - began > options.minutes * 60
                    while missing and not late and len(running) < options.shards:
                        task = missing.pop(0)
                        running.append(_play(options, record["suite"], task, names[task], server.url))
                    running = [process for process in running if process.poll() is None]
                    if late and not running:
                        break
                    time.sleep(0.5)
            finally:
                for process in running:
                    process.terminate()
    ours = {(e["task"], e["start_state"]): (e["success"], e["steps"]) for e in record["episodes"]}
    _compare(dict(_played(options)), ours)


def _file(options: Options, task: int) -> Path:
    return options.out / f"task{task:02d}" / "LIBEROBenchmark_aggregate.json"


def _play(options: Options, suite: str, task: int, name: str, url: str) -> subprocess.Popen[bytes]:
    folder = _file(options, task).parent
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "server": {"url": url, "timeout": 300},
        "output_dir": str(folder),
        "render": options.render,
        "benchmarks": [
            {
                "benchmark": LIBERO.harness_class,
                "tasks": [name],
                "episodes_per_task": options.episodes,
                "params": {"suite": suite, "seed": 7},
            }
        ],
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    command = [
        str(Path(sys.executable).with_name("vla-eval")),
        "run",
        "--no-docker",
        "-c",
        str(folder / "config.yaml"),
    ]
    with (folder / "log.txt").open("w") as log:
        one_core = {"LP_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **one_core})


def _played(options: Options) -> Iterator[tuple[tuple[int, int], tuple[bool, int]]]:
    for task in options.tasks:
        if _file(options, task).exists():
            for episode in read_vla_eval(json.loads(_file(options, task).read_text())).episodes:
                yield (task, episode.start_state), (episode.success, episode.steps)


def _compare(
    harness: Mapping[tuple[int, int], tuple[bool, int]], ours: Mapping[tuple[int, int], tuple[bool, int]]
) -> None:
    keys = sorted(harness.keys() & ours.keys())
    print("| task | start state | harness | evaluate |\n|---:|---:|---|---|")
    for key in keys:
        cells = [
            f"{'success' if won else 'failure'}, {steps} steps" for won, steps in (harness[key], ours[key])
        ]
        print(f"| {key[0]} | {key[1]} | {' | '.join(cells)} |")
    for name, outcomes in (("harness", harness), ("evaluate", ours)):
        wins = sum(outcomes[key][0] for key in keys)
        low, high = wilson_interval(wins, len(keys))
        print(f"{name}: {wins}/{len(keys)} ({low:.0%} to {high:.0%})")
    counts = Pairs.of((ours[key][0], harness[key][0]) for key in keys)
    low, high = counts.interval
    print(
        f"both {counts.both}, evaluate alone {counts.first}, harness alone {counts.second}, neither {counts.neither}"
    )
    print(
        f"harness - evaluate: {counts.difference:+.0%} ({low:+.0%} to {high:+.0%}), p = {counts.p_value:.2f}"
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
