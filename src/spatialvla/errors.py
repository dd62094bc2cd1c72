"""The errors a user meets, each raised with one sentence that says what was wrong and what to do."""


class InputError(ValueError):
    """An image, depth map, intrinsics, prompt, action or option that cannot be used."""


class NotFiniteError(ArithmeticError):
    """A model whose numbers became NaN or infinite: it has no action to offer."""


class CheckpointError(ValueError):
    """A checkpoint or dataset folder that is missing, truncated, or does not fit its configuration."""
