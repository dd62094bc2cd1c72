"""Settings of the client's tests."""

from hypothesis import settings

# Busy machines stall: an example that takes long is no failure.
settings.register_profile("client-tests", deadline=None, max_examples=50)
settings.load_profile("client-tests")
