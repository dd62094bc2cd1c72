"""Actions as numbers and as tokens: statistics, grids, and embeddings for another grid. NumPy alone."""
