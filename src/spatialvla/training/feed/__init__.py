"""What a run is fed with: batches of samples from its datasets."""
