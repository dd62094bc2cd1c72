"""What a run keeps: checkpoints to resume from, and exported models."""
