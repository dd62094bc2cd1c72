"""`spatialvla evaluate`: a policy's success rate on a suite of LIBERO's or SimplerEnv's, or in any Gymnasium one."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import tyro
from tyro.conf import Suppress

from spatialvla.cli.arguments import parse_options, read_first
from spatialvla.cli.policy_options import FlatPolicyOptions, PolicyOptions
from spatialvla.cli.rerun_option import destination
from spatialvla.cli.verb import Verb
from spatialvla.common.extras import needs_extra
from spatialvla.common.output_folder import check_output_folder
from spatialvla.errors import InputError
from spatialvla.execution import Execution

if TYPE_CHECKING:
    from spatialvla.actions.units import ActionUnits
    from spatialvla.evaluation.benchmarks.protocol import Benchmark, Inputs
    from spatialvla.evaluation.results.latency import Latency
    from spatialvla.processor import Processor

    BenchmarkFor = Callable[[int, ActionUnits, Inputs], Benchmark]

_MAX_WORKERS = 8


_SUITE = "libero_spatial"


@dataclass(frozen=True)
class _Chosen:
    suite: str | None = None
    gym: str | None = None


@dataclass(frozen=True)
class Evaluate(Verb):
    """Play a benchmark's suite and report the success rate.

    Unless told otherwise, actions are executed as in the suite's published evaluation.
    """

    options: FlatPolicyOptions

    suite: str = _SUITE
    """Any suite of the installed LIBERO, libero_plus_camera_spatial and the like, spatial_exam, or simpler_widowx."""

    gym: str | None = None
    """Instead of a suite: a Gymnasium environment by its ID, such as panda_gym:PandaReach-v3."""

    mapping: Path | None = None
    """Of --gym: the YAML file that says what the environment shows and takes (docs/how-to/gymnasium.md)."""

    episodes_per_task: int = 10
    """Episode i starts from stored start state i: LIBERO has 50 a task, LIBERO-plus 1; --gym and the exam draw it."""

    tasks: tuple[int, ...] = ()
    """Task numbers to play, counted from 0; all unless given."""

    depth: Literal["estimate", "simulator"] = "estimate"
    """Let the model estimate depth, or give it the simulator's."""

    without: tuple[str, ...] = ()
    """Cameras that the policy is to do without, by name, and state: what comes of it where they fail."""

    tolerance: int = 0
    """Cells by which a guess of a token may be off and still be taken; 0 changes no action."""

    depth_every: int = 1
    """Decisions that share one estimated depth map."""

    realtime: bool = False
    """The world does not wait: while a chunk is inferred, control steps go by (docs/how-to/realtime.md)."""

    latency: str | None = None
    """Of --realtime: control steps until a chunk takes over, or a .json or .csv file of measured milliseconds."""

    uncertainty: bool = False
    """Note how sure the policy was of each chunk, which takes one pass of its decoder more; --rerun does so, too."""

    unknown_units: bool = False
    """Play a policy though nobody says what 1 in its actions is, how it turns, or in whose frame."""

    other_rate: bool = False
    """Play a policy though it was trained at another control rate than the suite's."""

    shard: str | None = None
    """Play only part 2/4, say, into results-2-of-4.json; `spatialvla results` puts all parts together."""

    workers: int = field(default_factory=lambda: min(os.cpu_count() or 1, _MAX_WORKERS))
    """Processes that play episodes; the model stays in this one."""

    out: Path = Path("runs/{suite}-{policy}-{depth}")
    """Folder for results, videos and report, with names for braces; what it holds is not played again."""

    videos: bool = True
    """Write an MP4 of each episode."""

    rerun: str | None = None
    """Record episodes for Rerun: a folder (named like --out), viewer to open one, or the address of one that runs."""

    decisions: int = 2
    """Decisions of a task's first episode whose depth, points and tokens the report shows."""

    execution: Execution = field(default_factory=Execution)

    command: Suppress[str] = ""

    @classmethod
    def parse(cls, arguments: Sequence[str], program: str) -> Self:
        """Reads --suite first, because what is played, and how, depends on it; an environment of --gym is one."""
        from spatialvla.evaluation.benchmarks.registry import episodes_for, execution_for

        chosen = read_first(_Chosen, arguments, program)
        if chosen.gym and chosen.suite:
            raise InputError("--gym plays an environment in place of a --suite; give one of the two.")
        suite = chosen.suite or _SUITE
        published = "" if chosen.gym else suite  # of a user's environment nothing is published
        default = cls(
            PolicyOptions(policy=tyro.MISSING),
            suite=chosen.gym or suite,
            episodes_per_task=episodes_for(published),
            execution=execution_for(published),
        )
        typed = shlex.join([*program.split(), *arguments])
        return replace(parse_options(cls, arguments, program, default), command=typed)

    def run(self) -> None:
        """Plays what was not played yet, prints the success rates and says where the report is."""
        name = Path(self.options.policy).name
        out = Path(self._named(str(self.out), name))
        check_output_folder(out)
        # Before episodes are played: their report is drawn at the end.
        with needs_extra("viz", "The report"):
            import matplotlib  # noqa: F401
        from spatialvla.processor import Processor

        # Loading a policy takes long: what can be refused without one is refused before.
        benchmark_for = self._installed_benchmark()
        processor = Processor.from_pretrained(self.options.policy)
        options = replace(
            self.options,
            dataset=processor.dataset_for(self.options.dataset, None if self.gym else self.suite),
        )
        benchmark = self._checked_benchmark(benchmark_for, processor, options.dataset)
        latency = self._checked_plan(benchmark)
        import torch

        from spatialvla.common.terminal import Terminal
        from spatialvla.evaluation.play.decisions import DecisionKeeper
        from spatialvla.evaluation.play.resume import results_file
        from spatialvla.evaluation.play.runner import EvaluationError, evaluate
        from spatialvla.evaluation.report.episodes_page import write_report
        from spatialvla.evaluation.report.terminal import print_success
        from spatialvla.evaluation.results.plan import Shard
        from spatialvla.evaluation.results.provenance import hash_checkpoint, settings_of
        from spatialvla.model.folders import resolve_folder
        from spatialvla.viz.rerun.recordings import Recordings
        from spatialvla.viz.rerun.rig import Rig

        recorded_to = destination(None if self.rerun is None else self._named(self.rerun, name))
        shard = Shard.parse(self.shard) if self.shard else None
        keeper = DecisionKeeper(self.decisions, out / "decisions")
        # Threads of one operator wait for each other by spinning: more than idle cores slow all down.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - self.workers))
        policy = options.load(
            self.execution,
            tolerance=self.tolerance,
            depth_every=self.depth_every,
            uncertainty=self.uncertainty or recorded_to is not None,
            processor=processor,
        )
        told = f"{self.suite}: actions are executed in the mode {self.execution.mode}"
        late = "" if latency is None else f", each chunk {latency}"
        Terminal(stderr=True).print(f"{told} (--execution.mode){late}", highlight=False, markup=False)
        if benchmark.left_out:
            told = f"{self.suite}: the policy plays without {' and '.join(benchmark.left_out)}, which the suite lacks"
            Terminal(stderr=True).print(told, highlight=False, markup=False)
        recordings = None
        if recorded_to is not None:
            rate = float(benchmark.conventions(self.suite).control_hz)
            units = replace(policy.units.filled(benchmark.takes), control_hz=rate)
            recordings = Recordings(recorded_to, Rig.of(policy, units), f"{name} on {self.suite}")
        try:
            results = evaluate(
                policy,
                self.suite,
                self.episodes_per_task,
                benchmark=benchmark,
                settings=replace(settings_of(policy), latency=latency),
                out=out,
                workers=self.workers,
                depth=self.depth,
                tasks=self.tasks or None,
                shard=shard,
                name=name,
                checkpoint=hash_checkpoint(resolve_folder(self.options.policy), self.options.base),
                policy_path=self.options.policy,
                command=self.command,
                videos=self.videos,
                keeper=keeper,
                recordings=recordings,
            )
        except EvaluationError as error:
            raise SystemExit(f"spatialvla: {error}") from None
        console = Terminal()
        print_success(results, console)
        path = results_file(out, shard)
        report = path.with_name(path.name.replace("results", "report")).with_suffix(".html")
        write_report(results, keeper.kept, policy, report)
        console.print(f"\nWrote {report} and {path}", highlight=False, soft_wrap=True)
        if recorded_to is not None and recorded_to.folder is not None:
            told = f"Recordings are in {recorded_to.folder}; open one with `rerun FILE.rrd`"
            console.print(told, highlight=False, soft_wrap=True)

    def _checked_benchmark(
        self, benchmark_for: BenchmarkFor, processor: Processor, dataset: str | None
    ) -> Benchmark:
        """What is to be played, made for a policy by its processor alone; InputError where they do not fit."""
        from spatialvla.actions.fitting import check_fit
        from spatialvla.evaluation.benchmarks.protocol import Inputs

        units = processor.action_units(dataset)
        inputs = Inputs(processor.camera_names[1:], processor.states_of(dataset)).without(self.without)
        benchmark = benchmark_for(processor.image_size, units, inputs)
        check_fit(
            units,
            replace(benchmark.takes, control_hz=None) if self.other_rate else benchmark.takes,
            self.suite,
            statistics=processor.dataset_statistics(dataset),
            unknown_units=self.unknown_units,
            advice=self._advice(units, benchmark.takes),
        )
        return benchmark

    def _checked_plan(self, benchmark: Benchmark) -> Latency | None:
        """How late chunks come. Raises InputError where that is not clear, or there is not what is to be played."""
        from spatialvla.evaluation.benchmarks.chosen_tasks import chosen_tasks
        from spatialvla.evaluation.results.latency import Latency

        self._check_realtime()
        if self.workers < 1:
            raise InputError(f"--workers must be at least 1, not {self.workers}.")
        chosen_tasks(benchmark, self.suite, self.tasks or None, self.episodes_per_task)
        if self.latency is None:
            return None
        return Latency.parse(self.latency, benchmark.conventions(self.suite).control_hz)

    def _check_realtime(self) -> None:
        """Raises InputError where it is not said how late chunks come, or twice."""
        if self.realtime and self.latency is None:
            raise InputError("--realtime needs --latency: control steps, or a file of measured milliseconds.")
        if self.latency is not None and not self.realtime:
            raise InputError("--latency says how late chunks come in --realtime; give both.")
        if self.realtime and self.execution.latency_steps != Execution().latency_steps:
            raise InputError("--realtime takes --latency; leave out --execution.latency-steps.")

    def _installed_benchmark(self) -> BenchmarkFor:
        """How what is to be played is made for a policy; InputError where it cannot be played at all."""
        if self.gym is None:
            from spatialvla.evaluation.benchmarks.registry import benchmark_for, check_suite

            if self.mapping is not None:
                raise InputError(
                    "--mapping says what an environment of --gym is like; name one, or leave it out."
                )
            check_suite(self.suite)
            return partial(benchmark_for, self.suite)
        from spatialvla.evaluation.benchmarks.gym import checked_gym

        if self.mapping is None:
            raise InputError(
                f"--mapping is missing: a file that says what {self.gym} shows and takes; see docs/how-to/gymnasium.md."
            )
        return checked_gym(self.gym, self.mapping)

    def _advice(self, units: ActionUnits, taken: ActionUnits) -> str:
        """What to do about a policy that does not fit."""
        choose = (
            f"choose another {'--gym' if self.gym else '--suite'}, or a checkpoint and --dataset that fit"
        )
        others = units.differences(replace(taken, control_hz=None))
        return choose if others else f"{choose}, or play it at another rate with --other-rate"

    def _named(self, folder: str, name: str) -> str:
        """With the suite's, the policy's and the depth's names for words in braces."""
        suite = re.sub(r"[^\w.-]+", "-", self.suite)  # an environment's ID may have : and / in it
        for word, value in (("suite", suite), ("policy", name), ("depth", self.depth)):
            folder = folder.replace(f"{{{word}}}", value)
        return folder
