"""Grids to test with: the published Gaussians, and hypothesis strategies for any others."""

from hypothesis import strategies as st

from spatialvla.actions.bins import DIMENSION_RANGES, Bins
from spatialvla.actions.grids import ActionGrid

# The published Gaussians: the README of the checkpoints rounds them to four digits, the edges hold all.
PRETRAINING = {
    "theta": (1.8739714125737532, 0.7798433233705111),
    "phi": (0.08796911369129978, 1.6921243756107704),
    "r": (0.5480865478719801, 0.3474976355926086),
    "roll": (-0.016498618557435767, 0.3804899850542067),
    "pitch": (0.028462961721089794, 0.2991218272882964),
    "yaw": (-0.004913600039079157, 0.3902297900649029),
}
gaussians = st.fixed_dictionaries(
    {
        name: st.tuples(st.floats(low - 0.2, high + 0.2), st.floats(0.15, 3.0))
        for name, (low, high) in DIMENSION_RANGES.items()
    }
)
small_bins = st.builds(Bins, *[st.integers(1, 6)] * 6)
grids = st.builds(lambda fits, bins: ActionGrid.from_gaussians(fits, bins=bins), gaussians, small_bins)
