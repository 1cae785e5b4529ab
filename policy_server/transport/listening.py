"""A socket that listens for a server, and what its connections are set to."""

import contextlib
import errno
import os
import socket

from policy_server.transport.address import ServerError
from policy_server.transport.plain_client import AF_UNIX, address_of

_BACKLOG = 256
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}


def listen(endpoint: str) -> socket.socket:
    """Returns a socket that listens. Raises ServerError where that fails."""
    try:
        family, address = address_of(
            endpoint.removesuffix(":*") + ":0" if endpoint.endswith(":*") else endpoint
        )
    except ValueError as error:
        raise ServerError(f"cannot listen on {error}") from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == AF_UNIX:
            if isinstance(address, str) and not address.startswith("\0"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(address)  # of a server that was killed: `check_bind` has looked
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        in_use = error.errno == errno.EADDRINUSE
        hint = "; stop the other process or choose another --bind" if in_use else ""
        raise ServerError(
            f"cannot listen on {endpoint}: {error.strerror or error}{hint}"
        ) from error
    listener.setblocking(False)
    return listener


def name_of(listener: socket.socket) -> str:
    """Returns tcp://HOST:PORT of a socket that listens."""
    host, port = listener.getsockname()[:2]
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def tune(own: socket.socket) -> None:
    """No waiting for more to send; a robot that lost its power is noticed."""
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
