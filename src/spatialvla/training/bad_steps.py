"""Steps whose loss is no number: they end the run, or are left out and counted, as its configuration says."""

from __future__ import annotations

from collections.abc import Callable

from spatialvla.data.loaded_batch import LoadedBatch
from spatialvla.training.parallel.world import World


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; names the samples of the step."""


class BadSteps:
    """What becomes of such steps of one run. count: those left out so far."""

    def __init__(self, skip: bool, world: World, say: Callable[[str], None]) -> None:
        """skip: whether they are left out. say: told of each that is."""
        self.skip, self.world, self.say, self.count = skip, world, say, 0

    def refuse(self, step: str, loaded: LoadedBatch, loss: float) -> None:
        """Counts a step that changed no weight. step: its name. loss: over all ranks.

        Collective: the norm that tells such a step is the same on all ranks. Raises NonFiniteLoss, unless
        they are left out.
        """
        self.count += 1
        names = [name for rank in self.world.gather(loaded.names) for name in rank]
        message = (
            f"The loss of {step} is {loss} and its gradients are not finite; its samples are "
            f"{', '.join(names)}."
        )
        if not self.skip:
            raise NonFiniteLoss(
                f"{message} It changed no weight, and the last checkpoint is from before; lower the learning rate, "
                "look at these frames, or skip such batches (--skip-bad-batches)."
            )
        self.say(f"Skipped. {message}")
