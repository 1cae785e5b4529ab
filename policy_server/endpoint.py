"""Where a server may listen: this machine only, until authentication exists."""

import ipaddress
import socket
import stat
from pathlib import Path


class ServerError(RuntimeError):
    """The server cannot start; the message says why, and what to do."""


def check_bind(endpoint: str) -> None:
    """Checks that a server may bind `endpoint`.

    Raises:
        ServerError: It is not tcp:// on a loopback address nor ipc://, or an ipc path is in use.
    """
    scheme, separator, address = endpoint.partition("://")
    if not separator or scheme not in ("tcp", "ipc") or not address:
        raise ServerError(f"endpoint {endpoint!r}: expected tcp://127.0.0.1:PORT or ipc://PATH")
    if scheme == "ipc":
        _check_ipc(address)
        return
    host = address.rpartition(":")[0].strip("[]")
    if not _is_loopback(host):
        raise ServerError(
            f"refused to listen on {host!r}: without authentication only loopback is allowed; "
            "bind tcp://127.0.0.1:PORT and reach it through an SSH tunnel"
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_ipc(path: str) -> None:
    """Raises ServerError where someone listens on `path`, or a file is there that is no socket.

    ZeroMQ would remove whatever lies at the path and take it over in silence.
    """
    file = Path(path)
    if path == "*" or path.startswith("@") or not file.exists():
        return
    if not stat.S_ISSOCK(file.stat().st_mode):
        raise ServerError(f"ipc path {path} is an existing file, not a socket; choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return  # left behind by a server that was killed
    raise ServerError(f"endpoint ipc://{path} is in use by another process; stop it or choose another path")
