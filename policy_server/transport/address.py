"""Where a server may listen: on this machine, and elsewhere only with keys."""

import ipaddress
import socket
import stat
from pathlib import Path


class ServerError(RuntimeError):
    """The server cannot start; the message says why, and what to do."""


def check_bind(endpoint: str, has_keys: bool = False) -> None:
    """Checks that a server may bind `endpoint`.

    Args:
        endpoint: tcp://ADDRESS:PORT or ipc://PATH.
        has_keys: Whether clients must prove who they are (`policy_server.transport.keys`).

    Raises:
        ServerError: It is neither tcp:// nor ipc://, it is not loopback and there are no keys, or an ipc path is in
            use.
    """
    scheme, separator, address = endpoint.partition("://")
    if not separator or scheme not in ("tcp", "ipc") or not address:
        raise ServerError(f"endpoint {endpoint!r}: expected tcp://127.0.0.1:PORT or ipc://PATH")
    if scheme == "ipc":
        _check_ipc(address)
        return
    host = address.rpartition(":")[0].strip("[]")
    if not has_keys and not is_loopback(host):
        raise ServerError(
            f"refused to listen on {host!r}: without keys only loopback is allowed; make keys with "
            "`edp keys new DIR` and serve with --keys DIR, or bind tcp://127.0.0.1:PORT"
        )


def is_loopback(host: str) -> bool:
    """Returns whether the host is this machine's loopback; a name other than localhost, "" and * are not."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_ipc(path: str) -> None:
    """Raises ServerError where someone listens on `path`, or a file is there that is no socket.

    ZeroMQ would remove whatever lies at the path and take it over in silence.
    """
    if path == "*":
        raise ServerError(
            "endpoint ipc://*: expected a path, which clients must know, like ipc:///run/policy"
        )
    file = Path(path)
    if path.startswith("@") or not file.exists():
        return
    if not stat.S_ISSOCK(file.stat().st_mode):
        raise ServerError(f"ipc path {path} is an existing file, not a socket; choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return  # left behind by a server that was killed
    raise ServerError(
        f"endpoint ipc://{path} is in use by another process; stop it or choose another path"
    )
