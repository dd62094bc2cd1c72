"""Whether a model and a processor belong together."""

from __future__ import annotations

from spatialvla.errors import CheckpointError
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.processor import Processor


def check_belongs(config: SpatialVLAConfig, processor: Processor) -> None:
    """Raises CheckpointError where a model and a processor mean different tokens, cameras or states."""
    first, end = config.grammar[0].start, config.grammar[2].stop
    ranges = [(rows.start - first, rows.stop - first) for rows in config.grammar]
    if list(processor.grid.ranges) != ranges or processor.action_token_begin_idx != first:
        raise CheckpointError(
            f"The model has action tokens {first} to {end - 1} in kinds {ranges}, the processor's grid has "
            f"{list(processor.grid.ranges)} from {processor.action_token_begin_idx}; they do not belong together."
        )
    if processor.action_chunk_size != config.action_chunk_size:
        raise CheckpointError(
            f"The model's chunks have {config.action_chunk_size} steps, the processor's "
            f"{processor.action_chunk_size}; they do not belong together."
        )
    named = processor.camera_names, len(processor.state_names)
    if named != (config.cameras, config.state_size):
        raise CheckpointError(
            f"The model has the cameras {', '.join(config.cameras)} and {config.state_size} numbers of "
            f"state, the processor {', '.join(named[0])} and {named[1]}; they do not belong together."
        )
