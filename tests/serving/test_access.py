"""Keys, TLS and where the server may listen."""

import ssl
from pathlib import Path

import numpy as np
import pytest
from fake_policy import FakePolicy, expected
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from running import fake_service, plain, serving
from websockets.exceptions import InvalidStatus

from spatialvla.errors import InputError
from spatialvla.serving.guard.access import KEY_VARIABLE, Access, is_loopback
from spatialvla.types import Observation
from spatialvla_client import Client, Refused
from spatialvla_client import Observation as Seen

KEY = "an-api-key-of-some-length"


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def keys(tmp_path: Path, text: str = f"# robots\n{KEY}\nanother-key-of-some-length\n") -> Path:
    file = tmp_path / "keys"
    file.write_text(text)
    file.chmod(0o600)
    return file


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.9.1"])
def test_loopback_needs_nothing(host):
    assert is_loopback(host)
    assert Access.for_host(host).admits(None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "robot.local", ""])
def test_a_public_address_needs_keys_and_tls(host, tmp_path, certificate):
    cert, key = certificate
    with pytest.raises(InputError, match=r"API keys .* and TLS"):
        Access.for_host(host)
    with pytest.raises(InputError, match=r"set TLS"):
        Access.for_host(host, api_keys=keys(tmp_path))
    with pytest.raises(InputError, match=r"set API keys"):
        Access.for_host(host, tls_cert=cert, tls_key=key)
    assert Access.for_host(host, api_keys=keys(tmp_path), tls_cert=cert, tls_key=key).tls
    assert Access.for_host(host, insecure_public_bind=True).tls is None


def test_keys_of_a_file(tmp_path):
    checked = Access.for_host("127.0.0.1", api_keys=keys(tmp_path))
    assert checked.admits(f"Api-Key {KEY}")
    assert checked.admits(f"Bearer {KEY}")
    assert checked.admits("Api-Key another-key-of-some-length")
    for wrong in (
        None,
        "",
        KEY,
        f"Basic {KEY}",
        f"Api-Key {KEY}x",
        "Api-Key ",
        "Api-Key # robots",
        "Api-Key \udcff",
    ):
        assert not checked.admits(wrong)
    assert KEY not in repr(checked)


def test_a_key_of_the_environment(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert not Access.for_host("127.0.0.1").admits(None)
    assert Access.for_host("127.0.0.1").admits(f"Api-Key {KEY}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("short\n", "shorter than 16"), ("# none\n", "no API key"), ("with a space in it\n", "ASCII")],
)
def test_bad_keys_are_refused(tmp_path, text, sentence):
    with pytest.raises(InputError, match=sentence):
        Access.for_host("127.0.0.1", api_keys=keys(tmp_path, text))


def test_a_file_that_others_may_read_is_refused(tmp_path):
    file = keys(tmp_path)
    file.chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        Access.for_host("127.0.0.1", api_keys=file)
    with pytest.raises(InputError, match="cannot be read"):
        Access.for_host("127.0.0.1", api_keys=tmp_path / "none")


def test_half_of_tls_is_refused(tmp_path, certificate):
    cert, key = certificate
    with pytest.raises(InputError, match="both"):
        Access.for_host("127.0.0.1", tls_cert=cert)
    with pytest.raises(InputError, match="no certificate"):
        Access.for_host("127.0.0.1", tls_cert=key, tls_key=cert)


def test_a_server_with_keys(tmp_path):
    checked = Access.for_host("127.0.0.1", api_keys=keys(tmp_path))
    with serving(fake_service(FakePolicy(), access=checked)) as running:
        with pytest.raises(InvalidStatus, match="401"):
            WebsocketClientPolicy(running.url)
        with pytest.raises(InvalidStatus, match="401"):
            WebsocketClientPolicy(running.url, api_key=KEY[:-1])
        assert WebsocketClientPolicy(running.url, api_key=KEY).infer(plain(1))
        assert running.value("refused_connections_total", reason="unauthorized") == 2
        with Client(running.url, timeout=5) as stranger, pytest.raises(Refused, match="API key"):
            stranger.act(Seen(plain(1)["image"], "x"))
        with Client(running.url, api_key=KEY) as robot:
            assert robot.act(Seen(plain(1)["image"], "x"))


def test_a_server_with_tls(certificate):
    cert, key = certificate
    checked = Access.for_host("127.0.0.1", tls_cert=cert, tls_key=key)
    trusting = ssl.create_default_context(cafile=cert)
    with serving(fake_service(FakePolicy(), access=checked)) as running:
        assert running.url.startswith("wss://")
        message = plain(4)
        with Client(running.url, tls=trusting) as robot:
            chunk = robot.act(Seen(message["image"], message["instruction"]))
        assert np.array_equal(chunk.actions, expected(Observation(message["image"], message["instruction"])))
        with Client(running.url, timeout=1) as stranger, pytest.raises(ConnectionError, match="certificate"):
            stranger.act(Seen(message["image"], "x"))
