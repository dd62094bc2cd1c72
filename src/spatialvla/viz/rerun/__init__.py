"""Rerun recordings of episodes: pictures, depth, points, gripper and predicted chunks, in space and over time."""
