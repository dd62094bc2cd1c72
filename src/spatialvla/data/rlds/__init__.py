"""RLDS datasets as TFDS writes them, read without TensorFlow: framing, wire format, features, episodes."""

from spatialvla.data.rlds.reader import RLDSDataset, RLDSEpisode

__all__ = ["RLDSDataset", "RLDSEpisode"]
