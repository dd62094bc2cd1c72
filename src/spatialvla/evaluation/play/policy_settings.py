"""How a policy is used, as it is stored with the policy's results."""

from __future__ import annotations

from spatialvla.evaluation.results.settings import PolicySettings
from spatialvla.policy import Policy


def settings_of(policy: Policy) -> PolicySettings:
    """What, beside its weights, decides what this policy does."""
    model = policy.model
    eight_bits = model.optimization.eight_bits if model.optimization else None
    dtype = str(model.dtype).removeprefix("torch.")
    return PolicySettings(
        execution=policy.execution,
        dataset=policy.dataset,
        speculate=policy.speculate,
        tolerance=policy.tolerance,
        depth_every=policy.depth_every,
        prompt=policy.prompt,
        temperature=policy.temperature,
        dtype=f"{dtype}, {eight_bits}" if eight_bits else dtype,
    )
