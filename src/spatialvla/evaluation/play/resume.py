"""An evaluation's file on disk, where one that was stopped goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from spatialvla.errors import InputError
from spatialvla.evaluation.play.episode_video import video_name
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.identity import differences
from spatialvla.evaluation.results.plan import EpisodeId, Shard


def results_file(out: Path, shard: Shard | None) -> Path:
    """`out`/results.json, or the shard's own file beside the others': `out`/results-2-of-4.json."""
    return out / (f"results-{shard.number}-of-{shard.count}.json" if shard else "results.json")


def resumed(path: Path, asked: Results) -> Results:
    """What is asked for with the episodes that `path` already has of it.

    More episodes or tasks may be asked for than before; without a checkpoint's hash, or without a file, all
    is played. Raises InputError where the file holds results of something else, or episodes nobody asked for.
    """
    if asked.checkpoint is None or not path.exists():
        return asked
    found = Results.load(path)
    if different := differences(found, asked):
        in_others = found.settings and asked.settings and found.settings.dtype != asked.settings.dtype
        go_on = "give the --precision that it was played in, " if in_others else ""
        raise InputError(
            f"{path} holds results of something else ({'; '.join(different)}, there and now); "
            f"{go_on}choose another --out, or move it away."
        )
    planned = set(asked.planned)
    if strays := [episode.id for episode in found.episodes if episode.id not in planned]:
        raise InputError(
            f"{path} has {len(strays)} episodes that are not asked for now, such as task {strays[0].task} "
            f"from start state {strays[0].start_state}; ask for them, too, or choose another --out."
        )
    return replace(asked, episodes=found.episodes, seconds=found.seconds, started=found.started)


def sweep(path: Path, videos: Path, missing: list[EpisodeId]) -> None:
    """Removes half-written files that a killed process has left of these results and these episodes' videos.

    Other shards may be writing into the same folders, so only files that nobody else would write are touched.
    """
    names = {video_name(episode) for episode in missing}
    for folder, wanted in ((path.parent, {path.name}), (videos, names)):
        for left in folder.glob(".partial-*"):
            if left.name.split("-", 2)[-1] in wanted:
                left.unlink(missing_ok=True)
