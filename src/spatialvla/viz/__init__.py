"""Pictures: depth, points in space, action grids and datasets."""
