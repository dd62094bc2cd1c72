"""A policy that answers at once, and a server of it."""

import pytest
from fake_policy import FakePolicy
from running import fake_service, serving


@pytest.fixture
def policy() -> FakePolicy:
    return FakePolicy()


@pytest.fixture
def server(policy):
    with serving(fake_service(policy)) as running:
        yield running
        policy.gate.set()
