"""LeRobot datasets: a writer of format v3.0 and a reader of v2 and v3, which do not need lerobot itself."""

from spatialvla.data.lerobot.features import Feature
from spatialvla.data.lerobot.reader import LeRobotDataset, StoredEpisode
from spatialvla.data.lerobot.writer import LeRobotWriter

__all__ = ["Feature", "LeRobotDataset", "LeRobotWriter", "StoredEpisode"]
