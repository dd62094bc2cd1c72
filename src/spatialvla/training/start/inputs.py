"""What a run's model sees: the cameras, the state and the frame asked for, and what the datasets tell of them."""

from __future__ import annotations

import logging
from dataclasses import replace

from spatialvla.data.needed_parts import untold_cameras
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.geometry.workspace import AROUND_BASE, PUBLISHED, Workspace
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.growth import grown_config
from spatialvla.processor import Processor
from spatialvla.training.config import TrainConfig

log = logging.getLogger(__name__)


def asked_inputs(config: TrainConfig, network: SpatialVLAConfig, state_size: int = 0) -> SpatialVLAConfig:
    """The configuration of a network with the inputs that the run asks for.

    state_size: of the datasets' states, which a new network gets where it is to see them.
    Raises InputError where a policy has what it is to be given, CheckpointError for names that no cameras can have.
    """
    network = grown_config(network, config.add_camera, config.add_state)
    frame, workspace = config.ego3d_frame or network.ego3d_frame, network.workspace
    if frame != network.ego3d_frame:
        workspace = AROUND_BASE if frame == "robot" else PUBLISHED
    if config.workspace is not None:
        x, y, z, unit = config.workspace
        workspace = Workspace((x, y, z), unit)
    return network.replace(
        cameras=config.cameras or network.cameras,
        state_size=state_size if config.state else network.state_size,
        ego3d_frame=frame,
        workspace=workspace,
    )


def with_inputs(processor: Processor, network: SpatialVLAConfig, mixture: TrainingMixture) -> Processor:
    """The processor of such a network, with what the datasets tell of their further cameras and states.

    What it knows of other datasets it keeps. Where a dataset does not tell a camera's K, as most of Open X-Embodiment
    do not, the default one stands in, as it does for first cameras.
    """
    others = network.cameras[1:]
    told, untold = mixture.other_cameras(others), untold_cameras(mixture.sources, others)
    other_cameras = {}
    for name in others:
        default = {"default": processor.camera(None)} if name in untold else {}
        other_cameras[name] = {**default, **processor.other_cameras.get(name, {}), **told.get(name, {})}
    processor = replace(processor, camera_names=network.cameras, other_cameras=other_cameras)
    if not network.state_size:
        return processor
    before, names = processor.state_names, mixture.state_names or processor.state_names
    if before and names != before:
        log.warning(
            "The policy's state was %s, and the datasets' is %s. The policy will call it as they do; check that it "
            "is the same numbers in the same order.",
            *(", ".join(before), ", ".join(names)),
        )
    return replace(
        processor,
        state_names=names,
        state_statistics={**processor.state_statistics, **mixture.state_statistics()},
    )
