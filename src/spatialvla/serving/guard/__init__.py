"""The guard: who is let in, how much a client may ask, and what a robot may be told."""
