"""What a run leaves out of a dataset where damage is skipped: why, and which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from spatialvla.data.episodes import Episode
from spatialvla.errors import CheckpointError, InputError

_AT_ONCE = 32  # pictures in memory


@dataclass
class Omissions:
    """Filled episode by episode. parts, damaged, pictures, instructions: a sentence for each.

    parts: of the files, that are no episodes, see `EpisodeSource.left_out`. damaged: episodes that cannot be
    read. pictures: episodes with pictures or depth that cannot, of which the samples that see them are left out;
    of a run that holds all pictures in memory, the whole episode. instructions: episodes of which one cannot be
    used. steps: episodes that have no step, or that the dataset leaves out itself. words: episodes that do not
    say what to do, which a run takes where it is told what to say instead.
    """

    parts: tuple[str, ...] = ()
    damaged: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    instructions: list[str] = field(default_factory=list)
    steps: int = 0
    words: int = 0

    def look(
        self, number: int, episode: Episode, check: Callable[[str], object] | None, decode: bool
    ) -> None:
        """Looks for what would be left out of one episode with steps.

        check: raises InputError for an instruction that cannot be used; None checks none. decode: all pictures
        and depth of all cameras.
        """
        texts = dict.fromkeys(map(episode.instruction_at, range(len(episode.actions))))
        if not any(texts):
            self.words += 1
        if check is not None:
            for text in filter(None, texts):
                try:
                    check(text)
                except InputError as error:
                    self.instructions.append(f"Episode {number}: {error}")
                    break
        if decode and (reason := _broken_pictures(episode)):
            self.add_pictures(number, reason)

    def add_pictures(self, number: int, reason: str) -> None:
        """Why an episode's pictures cannot be read, once."""
        start = f"Episode {number}: "
        if not any(sentence.startswith(start) for sentence in self.pictures):
            self.pictures.append(start + reason)


def _broken_pictures(episode: Episode) -> str | None:
    steps: Sequence[int] = range(len(episode.actions))
    try:
        for view in (episode, *episode.other_views.values()):
            for start in range(0, len(steps), _AT_ONCE):
                view.images(steps[start : start + _AT_ONCE])
                view.depth(steps[start : start + _AT_ONCE])
    except CheckpointError as error:
        return str(error)
    return None
