"""A training run: its configuration, its batches, the loop, and what is kept of it."""
