"""What helps a small network that sees few demonstrations: softer targets, and tasks beside its own."""
