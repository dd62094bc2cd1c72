"""Settings of all tests."""

from hypothesis import settings

# Busy machines stall: an example that takes long is no failure.
settings.register_profile("default-tests", deadline=None, max_examples=50)
settings.load_profile("default-tests")
