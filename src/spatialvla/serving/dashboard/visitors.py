"""Which browsers may see the page: those with a key, and no page of another origin through its visitor."""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import socket
from collections import OrderedDict
from collections.abc import Callable, Mapping
from time import monotonic

from spatialvla.serving.guard.access import Access

_LOGIN_LASTS = 12 * 3600.0
_MOST_LOGINS = 32
_OWN = ("same-origin", "none")
"""What a browser says of its requests for the page itself, and of those that its user typed."""


class Visitors:
    """Logins, by a random token in a cookie. access: whose keys let in; without keys everyone is."""

    def __init__(self, access: Access, clock: Callable[[], float] = monotonic) -> None:
        self._access, self._clock = access, clock
        self._logins: OrderedDict[bytes, float] = OrderedDict()

    @property
    def key_needed(self) -> bool:
        """Whether a key is asked for."""
        return bool(self._access.digests)

    def log_in(self, key: str) -> str | None:
        """A new cookie's value for whoever has a key; None for a wrong one. Of many logins the oldest end."""
        if not self._access.admits(f"Api-Key {key}"):
            return None
        token = secrets.token_urlsafe(32)
        self._logins[_digest(token)] = self._clock() + _LOGIN_LASTS
        if len(self._logins) > _MOST_LOGINS:
            self._logins.popitem(last=False)
        return token

    def log_out(self, token: str) -> None:
        """Ends a login."""
        self._logins.pop(_digest(token), None)

    def admits(self, authorization: str | None, token: str | None) -> bool:
        """Whether a request with this Authorization header or this cookie may see the page."""
        if self._access.admits(authorization):
            return True
        return token is not None and self._logins.get(_digest(token), -1.0) > self._clock()

    def refusal(self, method: str, path: str, headers: Mapping[str, str]) -> str | None:
        """Why a request is not looked at, whoever sends it; None for one that may be.

        A name that leads here need not be ours: a page of another origin may have had it point to this machine. Only
        where a key is needed, which such a page has not got, any name will do.
        """
        host = headers.get("Host", "")
        if not self.key_needed and not _is_own_name(host):
            return "this server is not called so; open it by its address\n"
        origin, written = headers.get("Origin"), method not in ("GET", "HEAD")
        if origin is not None and origin != f"{'https' if self._access.tls else 'http'}://{host}":
            return "pages of other origins may not ask\n"
        if written and origin is None and "Authorization" not in headers:
            return "only the page itself may post\n"
        navigates = headers.get("Sec-Fetch-Mode") == "navigate" and not written
        if headers.get("Sec-Fetch-Site", "none") not in _OWN and not (navigates and path == "/"):
            return "pages of other origins may not ask\n"
        return None


def _is_own_name(host: str) -> bool:
    """Whether a Host header is an address, localhost or this machine's name: nobody else decides where these lead."""
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if name.lower() in ("localhost", socket.gethostname().lower()):
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _digest(token: str) -> bytes:
    """Looked up in place of the token, so that how long it takes says nothing of it."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
