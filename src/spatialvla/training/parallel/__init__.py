"""Training in many processes: who they are, and how they share a model."""
