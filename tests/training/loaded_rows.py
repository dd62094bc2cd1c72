"""Batches that tell where their samples are from, without what is in them."""

import numpy as np
import torch

from spatialvla.batch import Batch
from spatialvla.data.loaded_batch import LoadedBatch


def rows_of(key, episodes, steps, source=0):
    """Samples of these episodes and steps of one dataset."""
    count = len(steps)
    nothing = torch.zeros(count, 0, dtype=torch.long)
    batch = Batch(nothing, nothing.bool(), torch.zeros(count, 3, 0, 0), torch.zeros(count, 3, 3))
    where = np.array(episodes), np.array(steps)
    return LoadedBatch(batch, np.zeros((count, 2, 7)), (key,) * count, np.full(count, source), *where)
