"""A policy that answers at once, a server of it, and a certificate for one."""

import subprocess
from pathlib import Path

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


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    """Files of the certificate and of its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key
