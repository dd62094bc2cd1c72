"""A websocket client that can do what none should: stop in the middle, read nothing, come from any address."""

from __future__ import annotations

import socket

_HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13"
)


def open_raw(port: int, *, address: str = "127.0.0.1", greeted: bool = True, key: str = "") -> socket.socket:
    """A socket behind the handshake, and the server's metadata if it is greeted with them.

    address: of the client, on loopback.
    """
    opened = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(address, 0))
    header = f"\r\nAuthorization: Api-Key {key}\r\n\r\n".encode() if key else b"\r\n\r\n"
    opened.sendall(_HANDSHAKE + header)
    answer = opened.recv(4096)
    assert answer.startswith(b"HTTP/1.1 101"), answer
    if greeted and answer.endswith(b"\r\n\r\n"):
        opened.recv(4096)
    return opened


def frame(body: bytes, *, opcode: int = 2, last: bool = True, announced: int | None = None) -> bytes:
    """A frame of a client, masked with zeros. announced: its length as it says, if that is another."""
    size = len(body) if announced is None else announced
    head = bytes([(0x80 if last else 0) | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 2**16:
        head += b"\xfe" + size.to_bytes(2, "big")
    else:
        head += b"\xff" + size.to_bytes(8, "big")
    return head + bytes(4) + body


def is_closed(opened: socket.socket, seconds: float = 10) -> bool:
    """Whether the server ends the connection within some seconds."""
    opened.settimeout(seconds)
    try:
        while opened.recv(2**16):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True
