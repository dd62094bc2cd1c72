"""SpatialVLA as a policy of LeRobot, which finds this package by its name and imports it."""

from importlib.metadata import version

from lerobot_policy_spatialvla.configuration_spatialvla import SpatialVLAConfig

__all__ = ["SpatialVLAConfig"]
__version__ = version("lerobot_policy_spatialvla")
