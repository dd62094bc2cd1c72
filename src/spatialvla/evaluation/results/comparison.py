"""Two policies on the same start states: who succeeded where, and whether the difference may be chance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from spatialvla.errors import InputError
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.identity import differences
from spatialvla.evaluation.results.intervals import Pairs
from spatialvla.evaluation.results.outcomes import EpisodeResult, Tally
from spatialvla.evaluation.results.plan import EpisodeId


@dataclass(frozen=True)
class Comparison:
    """Paired outcomes of two evaluations of one suite.

    first, second: what is compared, with all they played. tasks: task number -> its pairs, in order.
    unpaired: episodes that only one of the two has; they do not count.
    rules: what differs beside the policies, so that it may explain a difference.
    """

    first: Results
    second: Results
    tasks: dict[int, Pairs]
    unpaired: int
    rules: tuple[str, ...]

    @property
    def total(self) -> Pairs:
        """The pairs of all tasks together."""
        return sum(self.tasks.values(), Pairs(0, 0, 0, 0))

    @property
    def tallies(self) -> tuple[Tally, Tally]:
        """Successes of either on the paired episodes."""
        total = self.total
        return Tally(total.both + total.first, total.trials), Tally(total.both + total.second, total.trials)

    @property
    def names(self) -> tuple[str, str]:
        """What to call the two: by policy, or by what else tells them apart."""
        first, second = labels((self.first, self.second))
        return first, second

    def verdict(self) -> str:
        """What it means, in a sentence that neither the test nor the interval contradicts."""
        total, (first, second) = self.total, self.names
        low, high = total.interval
        discordant, p = total.first + total.second, p_text(total.p_value)
        if not discordant:
            return (
                f"{first} and {second} succeeded and failed in the same episodes; with {total.trials} of "
                f"them the rates may still differ by anything from {points(low)} to {points(high)} points."
            )
        better, worse = (second, first) if total.difference > 0 else (first, second)
        least, most = sorted((abs(low), abs(high)))
        surely = total.p_value < 0.05
        apart = low > 0 or high < 0
        if surely and apart:
            return (
                f"{better} is better than {worse} on these start states, by {_number(least)} to {_number(most)} "
                f"points: so uneven a split of the {discordant} episodes in which they differ would come about "
                f"by chance with probability {p}."
            )
        split = (
            f"of the {discordant} episodes in which the two differ, {first} succeeded in {total.first} and "
            f"{second} in {total.second}, and a split as uneven as that comes about by chance with probability {p}"
        )
        if surely or apart:
            return (
                f"{better} may be better than {worse}, but these are too few episodes to be sure: {split}, "
                f"while the 95 % interval of the difference, {points(low)} to {points(high)} points, "
                f"{'leaves out' if apart else 'holds'} 0."
            )
        return (
            f"No difference is shown: {split}. {second} may be anything from {points(low)} to {points(high)} "
            f"points from {first}."
        )


def compare(first: Results, second: Results) -> Comparison:
    """Pairs the episodes of two evaluations by task and start state.

    Raises InputError where they are of different suites or have no episode in common.
    """
    if first.suite != second.suite:
        raise InputError(f"{first.suite} cannot be compared with {second.suite}: they share no start states.")
    one, other = _outcomes(first.episodes), _outcomes(second.episodes)
    shared = sorted(one.keys() & other.keys())
    if not shared:
        raise InputError("The two evaluations have no start state in common.")
    tasks = {
        task: Pairs.of((one[episode], other[episode]) for episode in shared if episode.task == task)
        for task in dict.fromkeys(episode.task for episode in shared)
    }
    rules = tuple(differences(first, second, policies=False))
    return Comparison(first, second, tasks, len(one.keys() ^ other.keys()), rules)


def labels(results: Iterable[Results]) -> tuple[str, ...]:
    """A name for each evaluation; those of the same policy are told apart by their first difference."""
    listed = list(results)
    options = [
        [each.policy for each in listed],
        [f"{each.policy} {short_hash(each)}".strip() for each in listed],
        [f"{each.policy} ({each.settings or 'settings unknown'})" for each in listed],
        [f"{each.policy} (depth: {each.depth})" for each in listed],
        [f"{each.policy} (by {each.harness})" for each in listed],
        [f"{each.policy} ({each.inputs})" for each in listed],
    ]
    distinct = (names for names in options if len(set(names)) == len(listed))
    return tuple(next(distinct, [f"{each.policy} ({number})" for number, each in enumerate(listed, 1)]))


def short_hash(results: Results) -> str:
    """The first twelve digits of the checkpoint's hash; empty without one."""
    return (results.checkpoint or "")[:12]


def p_text(value: float) -> str:
    """A probability with no more digits than matter."""
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def points(difference: float) -> str:
    """A difference of rates in percentage points, with its sign."""
    text = f"{100 * difference:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def _number(rate: float) -> str:
    """Percentage points without a sign."""
    return points(rate).removeprefix("+")


def _outcomes(episodes: Iterable[EpisodeResult]) -> dict[EpisodeId, bool]:
    return {episode.id: episode.success for episode in episodes}
