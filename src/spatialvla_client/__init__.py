"""A light client of policies that speak in action chunks: NumPy, msgpack and websockets, no torch."""
