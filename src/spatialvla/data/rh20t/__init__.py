"""RH20T as it is published: scenes of several cameras, the tool's pose, the gripper, the calibration."""

from spatialvla.data.rh20t.source import RH20TSource

__all__ = ["RH20TSource"]
