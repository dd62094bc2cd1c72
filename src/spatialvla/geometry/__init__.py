"""Cameras, points and rotations."""
