"""Simulated robots: LIBERO's Franka arm and SimplerEnv's WidowX, with scripted experts, and any of Gymnasium's."""
