"""Which datasets a run trains on, which of their episodes are held out, and what their actions are like."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from spatialvla.actions.bins import Bins
from spatialvla.actions.grids import ActionGrid
from spatialvla.actions.state_statistics import StateStatistics
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.actions.statistics_file import DatasetStatistics
from spatialvla.actions.units import ActionUnits
from spatialvla.common.dataset_keys import unversioned
from spatialvla.data.draws import EvenDraws, MixtureDraws
from spatialvla.data.episodes import Episode, EpisodeSource, OnBad
from spatialvla.data.held_out import held_out_of
from spatialvla.data.oxe.mixtures import GRID_EXCLUDED
from spatialvla.data.sketches import SAMPLE
from spatialvla.data.survey import Survey, survey
from spatialvla.errors import InputError
from spatialvla.geometry.camera import Camera

Shares = Literal["samples", "published"]
"""What a dataset's weight is times: its samples, or all its steps, also those that no sample starts at."""

_NAMED = 5  # of the episodes left out
_LOOKED_THROUGH = 50  # episodes, for a camera
_SOME_EPISODES = 1_000
"""Of a dataset, whose instructions a new tokenizer is made from."""


@dataclass(frozen=True, eq=False)
class TrainingMixture:
    """Datasets, what is known of them, and how often each is drawn.

    held_out: (episodes,) bool a dataset, those kept from training. seed: of the split and the shuffle.
    missing_instruction: what to say where an episode does not; None leaves such episodes out.
    shares: what the weights are times. given_statistics: by key, to normalize by in place of a dataset's own.
    """

    sources: tuple[EpisodeSource, ...]
    surveys: tuple[Survey, ...]
    weights: tuple[float, ...]
    held_out: tuple[np.ndarray, ...]
    seed: int
    missing_instruction: str | None = None
    shares: Shares = "samples"
    given_statistics: Mapping[str, DatasetStatistics] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        sources: Sequence[EpisodeSource],
        weights: Sequence[float] | None = None,
        held_out: float = 0.0,
        seed: int = 0,
        missing_instruction: str | None = None,
        on_bad: OnBad = "raise",
        workers: int = 1,
        cache: Path | None = None,
        shares: Shares = "samples",
        views: Sequence[int] | None = None,
        origins: Sequence[str] | None = None,
    ) -> TrainingMixture:
        """Surveys the datasets, or takes the surveys from `cache`.

        weights: of each dataset, times its size; all 1 unless given. held_out: fraction of each dataset's episodes.
        on_bad, workers, cache: as of `survey`. shares: what its size is. views: how many cameras in a row show one
        episode of each dataset, all of which are kept from training or none; all 1 unless given. origins: names of what
        they were read from, those of one name keep the same episodes from training; each one's key unless given.
        Raises InputError where two datasets have one key, or one has no samples; CheckpointError for a damaged
        episode with on_bad="raise".
        """
        if not 0 <= held_out < 1:
            raise InputError(f"The held-out fraction must lie in [0, 1), not {held_out}.")
        keys = [source.key for source in sources]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise InputError(
                f"The mixture has {twice[0]} twice; name each dataset once and raise its weight, or give one another "
                "key: a mapping's 'key', a spec's 'name', or 'key' in a file for --config."
            )
        surveys = tuple(survey(source, workers, cache, on_bad) for source in sources)
        keep = missing_instruction is not None
        for key, found in zip(keys, surveys, strict=True):
            if not found.counts(keep).any():
                raise InputError(
                    f"{key} has no samples: of {len(found.lengths)} episodes {len(found.damaged)} are damaged and "
                    f"{found.uninstructed} have no instruction; leave it out, or say with "
                    "--missing-instruction what stands for one."
                )
        split = held_out_of(
            [found.counts(keep) > 0 for found in surveys],
            [found.tasks for found in surveys],
            origins or keys,
            views or [1] * len(keys),
            held_out,
            seed,
        )
        given = tuple([1.0] * len(keys) if weights is None else map(float, weights))
        return cls(tuple(sources), surveys, given, tuple(split), seed, missing_instruction, shares)

    def checked(self, check: Callable[[str], object], on_bad: OnBad = "raise") -> TrainingMixture:
        """The mixture without the episodes that give an instruction of which `check` raises InputError.

        on_bad: whether such an episode is an error, or is left out and named among its dataset's `damaged`.
        Raises InputError, naming dataset and episode, with on_bad="raise", and where nothing is left to train on.
        """
        if self.missing_instruction is not None:
            check(self.missing_instruction)
        surveys = []
        for key, found in zip(self.keys, self.surveys, strict=True):
            reasons: dict[int, str] = {}
            for number, text in enumerate(found.instructions):
                try:
                    check(text)
                except InputError as error:
                    episodes = found.said[found.said[:, 1] == number, 0].tolist()
                    reasons |= {episode: f"{key} episode {episode}: {error}" for episode in episodes}
            if reasons and on_bad == "raise":
                first = min(reasons)
                raise InputError(
                    f"{reasons[first]} {len(reasons)} episodes cannot be used; correct their instructions, or leave "
                    "them out with on_bad='skip' (--on-bad skip)."
                )
            ordered = sorted(reasons)
            surveys.append(found.without(np.array(ordered, int), [reasons[episode] for episode in ordered]))
            if not surveys[-1].counts(self.missing_instruction is not None).any():
                raise InputError(f"{key} has no samples left: {next(iter(reasons.values()))}")
        return replace(self, surveys=tuple(surveys))

    @property
    def keys(self) -> tuple[str, ...]:
        """The datasets' names in a checkpoint."""
        return tuple(source.key for source in self.sources)

    @property
    def contents(self) -> tuple[str, ...]:
        """Of each dataset, a text that changes when what is read from it does, and not when files are touched."""
        return tuple(
            hashlib.sha256(f"{source.contents} {found.digest}".encode()).hexdigest()[:16]
            for source, found in zip(self.sources, self.surveys, strict=True)
        )

    @property
    def left_out(self) -> tuple[str, ...]:
        """What each dataset leaves out: how many damaged episodes, and why the first of them; how many empty ones.

        Also what is odd about its files.
        """
        said = []
        for source, found in zip(self.sources, self.surveys, strict=True):
            key, total, damaged = source.key, len(found.lengths), len(found.damaged)
            said += [f"{key}: {doubt}" for doubt in source.doubts]
            if parts := len(source.left_out):
                more = f"; and {parts - _NAMED} more" if parts > _NAMED else ""
                said.append(
                    f"{parts} parts of {key} are left out: {'; '.join(source.left_out[:_NAMED])}{more}"
                )
            if damaged:
                more = f"; and {damaged - _NAMED} more" if damaged > _NAMED else ""
                reasons = "; ".join(found.damaged[:_NAMED])
                said.append(f"{damaged} of {total} episodes of {key} are left out: {reasons}{more}")
            if found.empty:
                said.append(
                    f"{found.empty} of {total} episodes of {key} have no steps, or the dataset leaves them out."
                )
        layouts = {source.key: source.state_names for source in self.sources if source.state_names}
        if len(set(layouts.values())) > 1:
            named = "; ".join(f"{key}: {', '.join(names)}" for key, names in layouts.items())
            said.append(
                f"The datasets call the numbers of their states differently ({named}). The policy will call them as "
                "the first does; check that they are the same numbers in the same order."
            )
        return tuple(said)

    @cached_property
    def training(self) -> MixtureDraws:
        """The draws of training. Raises InputError where nothing is left to draw."""
        counts = [np.where(out, 0, counts) for out, counts in zip(self.held_out, self._counts, strict=True)]
        weights = self.weights
        if self.shares == "published":
            steps = [
                found.lengths[~out].sum() for found, out in zip(self.surveys, self.held_out, strict=True)
            ]
            # Of each sample: the dataset gives weight x steps draws an epoch.
            weights = tuple(
                weight * many / max(part.sum(), 1)
                for weight, many, part in zip(weights, steps, counts, strict=True)
            )
        return MixtureDraws(counts, weights, self.seed)

    def evaluation(self, limit: int) -> EvenDraws:
        """At most `limit` held-out samples, the same share of each dataset as far as it has so many."""
        counts = [np.where(out, counts, 0) for out, counts in zip(self.held_out, self._counts, strict=True)]
        return EvenDraws(counts, limit)

    def statistics(self) -> dict[str, ActionStatistics]:
        """Of the actions of each dataset, by key: the given ones, or its own."""
        return {
            key: given.actions if (given := self.given_statistics.get(key)) else found.sketch.statistics()
            for key, found in zip(self.keys, self.surveys, strict=True)
        }

    def state_statistics(self) -> dict[str, StateStatistics]:
        """Of the arm's states of each dataset that has them, by key: the given ones of as many numbers, or its own."""
        statistics = {}
        for key, found in zip(self.keys, self.surveys, strict=True):
            if found.states is not None and found.states.count:
                given = self.given_statistics.get(key)
                states = None if given is None else given.states
                fits = states is not None and states.size == found.states.size
                statistics[key] = states if states is not None and fits else found.states.statistics()
        return statistics

    def units(self) -> dict[str, ActionUnits]:
        """Of the actions of each dataset, by key."""
        return {source.key: source.units for source in self.sources}

    def cameras(self) -> dict[str, Camera]:
        """Of the first episode of each dataset, by key; those that are known."""
        first = {key: episode.camera for key, episode in self._first_episodes().items()}
        return {key: camera for key, camera in first.items() if camera is not None}

    def other_cameras(self, wanted: Collection[str]) -> dict[str, dict[str, Camera]]:
        """The same of each of the `wanted` cameras beside the first, by its name and by key.

        Of the first episode that tells it: one may have been there only later.
        """
        found: dict[str, dict[str, Camera]] = {}
        for source, surveyed in zip(self.sources, self.surveys, strict=True):
            missing = set(wanted)
            for index in np.flatnonzero(surveyed.lengths)[:_LOOKED_THROUGH].tolist():
                views = source.episode(index).other_views if missing else {}
                told = {name: views[name].camera for name in missing & views.keys()}
                for name, camera in told.items():
                    if camera is not None:
                        found.setdefault(name, {})[source.key] = camera
                        missing.remove(name)
        return found

    @property
    def state_names(self) -> tuple[str, ...]:
        """What the numbers of the arm's state are, by the first dataset that has one; empty where none has."""
        return next((source.state_names for source in self.sources if source.state_names), ())

    def instructions(self) -> list[str]:
        """Those of some hundred episodes of each dataset."""
        texts: set[str] = set()
        for source, found in zip(self.sources, self.surveys, strict=True):
            episodes = np.flatnonzero(found.instructed)
            some = episodes[:: max(1, len(episodes) // _SOME_EPISODES)]
            for index in some:
                episode = source.episode(int(index))
                texts.update(map(episode.instruction_at, range(len(episode.actions))))
        return sorted(texts)

    def fit_grid(
        self, bins: Bins, min_sigma: float = 0.0, exclude: Collection[str] | None = None
    ) -> ActionGrid:
        """One action grid for all datasets, each normalized by its own statistics and counted as often as it is drawn.

        exclude: keys of datasets whose actions are left out, such as those with constant dimensions; the published
        ones unless given, where others are left.
        """
        return ActionGrid.fit(self.normalized_actions(exclude), min_sigma, bins)

    def normalized_actions(self, exclude: Collection[str] | None = None) -> np.ndarray:
        """(N, 7) what `fit_grid` fits: all actions of one dataset of up to `SAMPLE`, or else a uniform sample."""
        return np.concatenate([known.normalize(actions) for known, actions in self._sampled(exclude)])

    def clipped_parts(self, exclude: Collection[str] | None = None) -> np.ndarray:
        """(N, 7) what normalizing clips of the same actions, see `ActionStatistics.beyond`."""
        return np.concatenate([known.beyond(actions) for known, actions in self._sampled(exclude)])

    def _sampled(self, exclude: Collection[str] | None) -> list[tuple[ActionStatistics, np.ndarray]]:
        """Actions (n, 7) of each dataset in its units, and its statistics."""
        if exclude is None:
            published = {key for key in self.keys if unversioned(key) in GRID_EXCLUDED}
            exclude = published if published < set(self.keys) else ()
        chosen = [number for number, key in enumerate(self.keys) if key not in exclude]
        draws = self.training.draws[chosen]
        if not draws.sum():
            raise InputError("No dataset is left to fit the action grid to; exclude fewer.")
        # In the order of the hashes any first part is a uniform sample.
        sketches = [self.surveys[number].sketch for number in chosen]
        own = self.statistics()
        statistics = [own[self.keys[number]] for number in chosen]
        samples = [sketch.sample[np.argsort(sketch.hashes)] for sketch in sketches]
        shares = draws / draws.sum()
        # So many that each action counts, as far as that is not more than a sketch holds of one dataset.
        total = min(SAMPLE, max(len(s) / share for s, share in zip(samples, shares, strict=True) if share))
        rows = [np.arange(round(share * total)) % len(s) for s, share in zip(samples, shares, strict=True)]
        parts = [sample[part] for sample, part in zip(samples, rows, strict=True)]
        return list(zip(statistics, parts, strict=True))

    def _first_episodes(self) -> dict[str, Episode]:
        """The first that can be read of each dataset, by key."""
        return {
            source.key: source.episode(int(np.flatnonzero(found.lengths)[0]))
            for source, found in zip(self.sources, self.surveys, strict=True)
        }

    @property
    def _counts(self) -> list[np.ndarray]:
        return [found.counts(self.missing_instruction is not None) for found in self.surveys]
