"""Who may talk to the server: loopback unless asked otherwise, API keys, TLS.

A key comes from a file or the environment, never from the command line, where every process could read it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from spatialvla.errors import InputError

KEY_VARIABLE = "SPATIALVLA_API_KEY"
_SHORTEST_KEY = 16


@dataclass(frozen=True)
class Access:
    """digests: SHA-256 of each key that is let in; none lets everyone in. tls: None serves in the clear."""

    digests: tuple[bytes, ...] = ()
    tls: ssl.SSLContext | None = None

    def admits(self, authorization: str | None) -> bool:
        """Whether a request with this Authorization header ("Api-Key KEY" or "Bearer KEY") may come in.

        Takes as long for a nearly right key as for a wrong one.
        """
        return not self.digests or self.key_number(authorization) is not None

    def check_none(self, client: str) -> None:
        """Raises InputError where something is asked of clients that know nothing of it. client: whose they are."""
        if self.digests or self.tls:
            raise InputError(
                f"{client}'s client knows neither API keys nor TLS; serve it on loopback without them, and reach "
                "it from elsewhere through a tunnel."
            )

    def key_number(self, authorization: str | None) -> int | None:
        """Which of the keys this Authorization header holds, None for none of them."""
        scheme, _, key = (authorization or "").partition(" ")
        digest = _digest(key.strip())
        matches = [hmac.compare_digest(digest, known) for known in self.digests]
        return matches.index(True) if any(matches) and scheme.lower() in ("api-key", "bearer") else None

    @classmethod
    def for_host(
        cls,
        host: str,
        *,
        api_keys: Path | None = None,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        insecure_public_bind: bool = False,
    ) -> Access:
        """What a server that listens on `host` asks of its clients.

        api_keys: a file with one key a line; without it, the variable SPATIALVLA_API_KEY, if it is set.
        Raises InputError where the options do not belong together, and for a public address without keys and
        TLS.
        """
        keys = _keys_of_file(api_keys) if api_keys else _keys_of_environment()
        if (tls_cert is None) != (tls_key is None):
            raise InputError("TLS needs both a certificate and its key; pass --tls-cert and --tls-key.")
        tls = _tls(tls_cert, tls_key) if tls_cert and tls_key else None
        if not is_loopback(host) and not (keys and tls) and not insecure_public_bind:
            missing = " and ".join(
                name
                for name, given in (("API keys (--api-keys)", keys), ("TLS (--tls-cert, --tls-key)", tls))
                if not given
            )
            raise InputError(
                f"{host} can be reached from other machines, and whoever reaches it moves the robot: set "
                f"{missing}, bind to 127.0.0.1, or say --insecure-public-bind."
            )
        return cls(tuple(_digest(key) for key in keys), tls)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address. Names other than localhost count as public."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _keys_of_environment() -> list[str]:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    return _checked([key], KEY_VARIABLE) if key else []


def _keys_of_file(path: Path) -> list[str]:
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise InputError(f"{path} holds keys and others may read or write it; run chmod 600 {path}.")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The API keys in {path} cannot be read ({error}).") from None
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise InputError(f"{path} holds no API key; write one a line.")
    return _checked(keys, str(path))


def _checked(keys: list[str], where: str) -> list[str]:
    for key in keys:
        if len(key) < _SHORTEST_KEY or not key.isascii() or " " in key:
            raise InputError(
                f"A key in {where} is shorter than {_SHORTEST_KEY} characters or not plain ASCII; make one "
                "with python -c 'import secrets; print(secrets.token_urlsafe(32))'."
            )
    return keys


def _tls(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{cert} and {key} are no certificate and its key ({error}).") from None
    return context
