"""Serving: a policy behind openpi's, LeRobot's and vla-eval's protocols, for many clients at a time."""
