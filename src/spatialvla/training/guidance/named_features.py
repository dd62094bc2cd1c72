"""What guidance names, looked for in the datasets before they are read as a whole."""

from __future__ import annotations

from collections.abc import Sequence

from spatialvla.data.episodes import Episode, EpisodeSource
from spatialvla.errors import CheckpointError, InputError
from spatialvla.training.guidance.keypoints import keypoint_positions
from spatialvla.training.guidance.privileged import privileged_values
from spatialvla.training.guidance_config import Guidance

_LOOKED_THROUGH = 50  # episodes, for one that is not damaged


def check_guidance(sources: Sequence[EpisodeSource], guidance: Guidance) -> None:
    """Raises InputError, naming the dataset, where its first episode lacks a feature that is to be learned from."""
    stage = guidance.vision_steps > 0
    names = guidance.privileged if stage or guidance.privileged_weight > 0 else ()
    points = guidance.keypoints if stage else ()
    if not names and not points:
        return
    for source in sources:
        episode = _first_episode(source)
        if episode is None:
            continue
        try:
            for name in names:
                privileged_values(episode, name)
            if points:
                keypoint_positions(episode, points)
        except InputError as error:
            raise InputError(f"{source.key}: {error}") from None


def _first_episode(source: EpisodeSource) -> Episode | None:
    for index in range(min(len(source), _LOOKED_THROUGH)):
        try:
            return source.episode(index)
        except CheckpointError:
            continue
    return None
