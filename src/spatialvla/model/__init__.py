"""The model: a network below (tensors in, tensors out), what users meet above, and loading between."""
