"""An episode of any Open X-Embodiment dataset in the form of `spatialvla.data.episodes.Episode`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from spatialvla.data.oxe.actions import moves
from spatialvla.data.oxe.specs import RLDSSpec
from spatialvla.data.rlds import RLDSEpisode
from spatialvla.data.rlds.tfrecord import BadRecord
from spatialvla.geometry.camera import Camera


@dataclass(frozen=True)
class StandardEpisode:
    """T steps of one dataset.

    dataset: its key. instruction: lower-case text, "" where there is none.
    actions: (T, 7) float64 Δx Δy Δz Δroll Δpitch Δyaw gripper, in the dataset's units, gripper 1 = open.
    starts: the steps that samples may start at. camera: of the images, or None where it is not published.
    """

    dataset: str
    instruction: str
    actions: np.ndarray
    starts: np.ndarray
    camera: Camera | None
    source: RLDSEpisode = field(repr=False)
    image_key: str
    first_step: int

    def __len__(self) -> int:
        return len(self.actions)

    def images(self, steps: Sequence[int]) -> np.ndarray:
        """(n, H, W, 3) uint8 of some steps. Raises BadRecord, naming the place, for a broken file."""
        return self.source.images(self.image_key, [self.first_step + step for step in steps])

    def depth(self, steps: Sequence[int]) -> None:
        """None: where these datasets have depth, it is in units of their own."""


def standardise(spec: RLDSSpec, episode: RLDSEpisode) -> StandardEpisode:
    """Reads instruction and actions; images stay encoded.

    Raises InputError where the dataset lacks what the spec names, BadRecord where numbers are no numbers.
    """
    inputs = [np.asarray(episode.numbers(f"steps/{key}"))[spec.skip :] for key in spec.inputs]
    actions = spec.action(*inputs)
    if not np.isfinite(actions).all():
        raise BadRecord(f"{episode.place} has actions that are not finite; leave the episode out.")
    kept = moves(actions) if spec.drop_no_ops else np.ones(len(actions), dtype=bool)
    return StandardEpisode(
        dataset=spec.key,
        instruction=_instruction(spec, episode),
        actions=actions,
        starts=np.flatnonzero(kept),
        camera=spec.camera,
        source=episode,
        image_key=f"steps/{spec.image}",
        first_step=spec.skip,
    )


def _instruction(spec: RLDSSpec, episode: RLDSEpisode) -> str:
    """The first step's that is not empty; language_table stores code points in place of text."""
    key = f"steps/{spec.instruction}"
    stored = episode.specs.get(key)
    if stored is not None and stored.kind == "tensor":
        points = np.asarray(episode.numbers(key))[0]
        return "".join(map(chr, points[points > 0])).strip().lower()
    return next((text.strip() for text in episode.texts(key) if text.strip()), "")
