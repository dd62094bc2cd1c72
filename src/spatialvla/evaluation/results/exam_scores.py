"""What a policy scored in the spatial exam, by skill and pair, and what it would have scored by chance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.outcomes import EpisodeResult, Tally
from spatialvla.simulation.libero.exam.questions import SKILLS, SUITE, Pair

CHANCE = 0.5
"""Of taking the right one of two equal bowls."""


def is_exam(results: Results) -> bool:
    """Whether the suite is the spatial exam, of whatever seed."""
    return results.suite == SUITE or results.suite.startswith(f"{SUITE}_")


@dataclass(frozen=True)
class PairScore:
    """The scores of one pair of questions, or of several together.

    chose: right bowls among episodes in which one was taken at all. success: right bowls on the plate.
    both: pairs of episodes that succeeded in both halves. placed: episodes that ended with either bowl on the plate.
    both_placed: pairs of episodes that both did.
    """

    chose: Tally
    success: Tally
    both: Tally
    placed: int
    both_placed: int

    def __add__(self, other: PairScore) -> PairScore:
        """Both together."""
        return PairScore(
            _sum(self.chose, other.chose),
            _sum(self.success, other.success),
            _sum(self.both, other.both),
            self.placed + other.placed,
            self.both_placed + other.both_placed,
        )

    @property
    def success_by_chance(self) -> float:
        """The success rate of the same hands with a coin for a head: half of what they put on the plate."""
        return CHANCE * self.placed / self.success.trials if self.success.trials else 0.0

    @property
    def both_by_chance(self) -> float:
        """The share of pairs that they would get right: a quarter of those in which they put a bowl there twice."""
        return CHANCE**2 * self.both_placed / self.both.trials if self.both.trials else 0.0


@dataclass(frozen=True)
class SkillScore:
    """The scores of a skill: pair by pair, of which at least one was played."""

    skill: str
    pairs: tuple[tuple[str, PairScore], ...]

    @property
    def total(self) -> PairScore:
        """All pairs together."""
        return sum((score for _, score in self.pairs), _NOTHING)


def exam_scores(results: Results) -> list[SkillScore]:
    """The scores of the skills that were played, in the exam's order; a pair counts once both halves are there."""
    found = []
    for skill, pairs in SKILLS.items():
        played = {pair.name: _played(pair, results) for pair in pairs}
        if scores := tuple((name, _score(both, results)) for name, both in played.items() if both):
            found.append(SkillScore(skill, scores))
    return found


def _played(pair: Pair, results: Results) -> list[tuple[EpisodeResult, EpisodeResult]]:
    """The episodes of both halves, side by side."""
    first, second = ({e.start_state: e for e in results.episodes if e.task == task} for task in pair.numbers)
    return [(first[state], second[state]) for state in first if state in second]


_NOTHING = PairScore(Tally(0, 0), Tally(0, 0), Tally(0, 0), 0, 0)


def _score(played: Iterable[tuple[EpisodeResult, EpisodeResult]], results: Results) -> PairScore:
    total = _NOTHING
    for pair in played:
        placed = [_placed(half, results) for half in pair]
        total += PairScore(
            Tally.of(half.chose for half in pair if half.chose is not None),
            Tally.of(half.success for half in pair),
            Tally.of([all(half.success for half in pair)]),
            sum(placed),
            int(all(placed)),
        )
    return total


def _placed(episode: EpisodeResult, results: Results) -> bool:
    """Whether either bowl came onto the plate: only the wrong one ends an episode early without success."""
    return episode.success or episode.steps < results.conventions.limit(episode.task)


def _sum(one: Tally, other: Tally) -> Tally:
    return Tally(one.successes + other.successes, one.trials + other.trials)
