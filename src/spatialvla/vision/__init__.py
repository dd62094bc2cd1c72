"""What the model sees beside pixels: depth, and where each image patch is in space."""
