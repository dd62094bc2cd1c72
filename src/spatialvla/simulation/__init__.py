"""Simulated robots: LIBERO's Franka arm and SimplerEnv's WidowX, each with a scripted expert."""
