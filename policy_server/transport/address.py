"""Endpoints: parses them, checks where a server may listen, and opens its listening socket."""

import contextlib
import errno
import ipaddress
import os
import socket
import stat
from pathlib import Path

from policy_server.contract.errors import ServerError

AF_UNIX = getattr(socket, "AF_UNIX", -1)
_BACKLOG = 256
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}


def address_of(endpoint: str) -> tuple[int, str | tuple[str, int]]:
    """Returns the socket family and the address of an endpoint.

    Args:
        endpoint: tcp://HOST:PORT, ipc://PATH, or ipc://@NAME (Linux: a name without a file).

    Raises:
        ValueError: The endpoint is none of these.
    """
    path = unix_path(endpoint)
    if path is not None:
        return AF_UNIX, path
    host, port = host_and_port(endpoint)
    return (socket.AF_INET6 if ":" in host else socket.AF_INET), (host, port)


def unix_path(endpoint: str) -> str | None:
    """Returns the address of an ipc endpoint's socket, None for other endpoints."""
    scheme, separator, rest = endpoint.partition("://")
    if scheme != "ipc" or not separator or not rest:
        return None
    return "\0" + rest[1:] if rest.startswith("@") else rest


def host_and_port(endpoint: str) -> tuple[str, int]:
    """Returns the host, without brackets, and the port of a tcp endpoint.

    Raises:
        ValueError: It is no tcp endpoint, or an IPv6 address has no brackets.
    """
    scheme, separator, rest = endpoint.partition("://")
    found = split_host(rest) if scheme == "tcp" and separator else None
    if found is None or not found[0]:
        brackets = "; an IPv6 address is written in brackets, [::1]" if rest.count(":") > 1 else ""
        raise ValueError(f"endpoint {endpoint!r}: expected tcp://HOST:PORT or ipc://PATH{brackets}")
    return found


def split_host(address: str) -> tuple[str, int] | None:
    """Returns host and port of HOST:PORT or [IPV6]:PORT, None for other texts.

    The host is without brackets, and may be empty.
    """
    host, _, port = address.rpartition(":")
    inner = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_bare_ipv6 = inner == host and ":" in host
    if is_bare_ipv6 or set("[]") & set(inner) or not (port.isascii() and port.isdigit()):
        return None
    return (inner, int(port)) if int(port) < 65536 else None


def socket_file(endpoint: str) -> Path | None:
    """Returns the file of an ipc endpoint, None for tcp and for names without a file."""
    scheme, _, path = endpoint.partition("://")
    return Path(path) if scheme == "ipc" and not path.startswith("@") else None


def check_bind(endpoint: str, has_keys: bool = False) -> None:
    """Checks that a server may listen on `endpoint`.

    Args:
        endpoint: tcp://ADDRESS:PORT or ipc://PATH.
        has_keys: Whether clients must prove their identity with keys.

    Raises:
        ServerError: The endpoint is neither tcp nor ipc. It is not loopback and there are no keys.
            Another process listens on the ipc path, or an ordinary file has that path.
    """
    scheme, separator, address = endpoint.partition("://")
    if not separator or scheme not in ("tcp", "ipc") or not address:
        raise ServerError(f"endpoint {endpoint!r}: expected tcp://127.0.0.1:PORT or ipc://PATH")
    if scheme == "ipc":
        _check_ipc(endpoint)
        return
    host = address.rpartition(":")[0].strip("[]")
    if not has_keys and not is_loopback(host):
        raise ServerError(
            f"refused to listen on {host!r}: without keys only loopback is allowed; make keys with "
            "`edp keys new DIR` and serve with --keys DIR, or bind tcp://127.0.0.1:PORT"
        )


def is_loopback(host: str) -> bool:
    """Returns whether the host is localhost or a loopback address. "" and * are not."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_ipc(endpoint: str) -> None:
    """Raises ServerError where a path is in use. ZeroMQ would silently replace it."""
    file = socket_file(endpoint)
    if endpoint == "ipc://*":
        raise ServerError(
            "endpoint ipc://*: expected a path that clients know, like ipc:///run/policy"
        )
    if file is None or not os.path.lexists(file):
        return
    if not stat.S_ISSOCK(file.lstat().st_mode):
        raise ServerError(f"ipc path {file} is an existing file, not a socket; choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # A server that does not accept just now is not dead.
        code = probe.connect_ex(str(file))
    if code in (errno.ECONNREFUSED, errno.ENOENT):
        return  # A server that was killed left the file, or has removed it since.
    raise ServerError(
        f"endpoint {endpoint} is in use by another process; stop it or choose another path"
    )


def open_listener(endpoint: str) -> socket.socket:
    """Returns a non-blocking socket that listens on `endpoint`. Port * picks a free port.

    Raises:
        ServerError: The endpoint is malformed, in use, or not an address of this machine.
    """
    try:
        family, address = address_of(f"{endpoint[:-1]}0" if endpoint.endswith(":*") else endpoint)
    except ValueError as error:
        raise ServerError(f"cannot listen on {error}") from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    file = socket_file(endpoint)
    try:
        if file is not None:
            _check_ipc(endpoint)  # Once more: another server may have come while this one loaded.
            file.unlink(missing_ok=True)
        if family != AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except ServerError:
        listener.close()
        raise
    except OSError as error:
        listener.close()
        raise bind_error(endpoint, error.errno, str(error.strerror or error)) from error
    listener.setblocking(False)
    return listener


class SocketFile:
    """The file of a listening ipc socket.

    Args:
        endpoint: The endpoint that a listener of this process has just been bound to.
    """

    def __init__(self, endpoint: str):
        self._path = socket_file(endpoint)
        self._made = _file_number(self._path)

    def remove(self) -> None:
        """Removes the file, unless another server has made its own there since."""
        if self._path is not None and self._made and _file_number(self._path) == self._made:
            with contextlib.suppress(OSError):
                self._path.unlink()


def _file_number(path: Path | None) -> tuple[int, int] | None:
    """Returns what tells this file from a later one of the same name, None without a file."""
    try:
        found = None if path is None else path.lstat()
    except OSError:
        return None
    return None if found is None else (found.st_dev, found.st_ino)


def bind_error(endpoint: str, code: int | None, reason: str) -> ServerError:
    """Returns the error for an endpoint that cannot be bound.

    Args:
        endpoint: The endpoint.
        code: The system's error number.
        reason: The system's message.
    """
    in_use = code == errno.EADDRINUSE
    hint = "; stop the other process or choose another --bind" if in_use else ""
    return ServerError(f"cannot listen on {endpoint}: {reason}{hint}")


def tcp_endpoint(listener: socket.socket) -> str:
    """Returns tcp://HOST:PORT of a listening TCP socket."""
    host, port = listener.getsockname()[:2]
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def tune_tcp(connection: socket.socket) -> None:
    """Makes a TCP connection send at once, and end when its peer has lost power."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
