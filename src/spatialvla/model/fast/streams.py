"""The two vision towers at the same time: on a GPU each has a stream of its own."""

from __future__ import annotations

import torch

from spatialvla.batch import Batch
from spatialvla.model.decoding.passes import Passes
from spatialvla.model.network import Network


class TwoStreamPasses(Passes):
    """Passes that, on a GPU, compute where patches are (ZoeDepth) and what they show (SigLIP) together."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self._side = torch.cuda.Stream(network.device) if network.device.type == "cuda" else None
        if self._side is not None:
            self.slot_multiple = (
                8  # with odd strides a product with the keys takes an old kernel, twice as long
            )

    def embed(self, batch: Batch) -> torch.Tensor:
        """As in `Passes`; each tower has a stream of its own, and the caller's waits for both."""
        network = self.network
        if self._side is None or not network.config.use_vision_zoe:
            return network.embed(batch)
        here = torch.cuda.current_stream()
        self._side.wait_stream(here)
        with torch.cuda.stream(self._side):
            where = network.ego3d_features(batch)
        what = network.siglip_features(batch)
        here.wait_stream(self._side)
        return network.embed(batch, network.project(what + where))
