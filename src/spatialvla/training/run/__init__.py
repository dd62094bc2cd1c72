"""A run as it goes: its progress, and being asked to stop."""
