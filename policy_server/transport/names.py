"""Looks host names up without waiting longer than a deadline.

The system's look-up cannot be stopped: with a name server that does not answer it takes 10 s and
more. So it runs in a thread of its own, which no caller waits for beyond its deadline.
"""

import ipaddress
import socket
import threading
import time

MAX_WAIT_S = 3600.0  # An event takes no infinite time. Callers that wait longer ask again.
Address = tuple[int, tuple]  # Socket family, and what `socket.connect` takes.


class Addresses:
    """The addresses of one host, one after the other. They are looked up again after the last.

    An address in figures is its own only address and needs no look-up.

    Args:
        host: A host name or an address in figures, without brackets.
        port: The port.
    """

    def __init__(self, host: str, port: int):
        self._host = host
        self._port = port
        self._left: list[Address] = []
        self._look_up: _LookUp | None = None
        self.is_literal = is_literal(host)

    def next(self, deadline_ns: int) -> Address | None:
        """Returns the address to try next. None: the look-up lasts longer than `deadline_ns`.

        The next call goes on with a look-up that has not ended.

        Raises:
            OSError: There is no such host.
        """
        if self._left:
            return self._left.pop(0)
        if self.is_literal:
            return _found(self._host, self._port, socket.AI_NUMERICHOST)[0]
        self._look_up = self._look_up or _LookUp(self._host, self._port)
        if not self._look_up.wait(deadline_ns):
            return None
        ended = self._look_up
        self._look_up = None
        self._left = ended.result()
        return self._left.pop(0)


class _LookUp:
    """One look-up in a thread of its own."""

    def __init__(self, host: str, port: int):
        self._ended = threading.Event()
        self._found: list[Address] = []
        self._fault: OSError | None = None
        work = threading.Thread(target=self._work, args=(host, port), name="names", daemon=True)
        work.start()

    def wait(self, deadline_ns: int) -> bool:
        """Returns whether it has ended. Waits until `deadline_ns`."""
        left_s = (deadline_ns - time.monotonic_ns()) * 1e-9
        return self._ended.wait(min(max(left_s, 0), MAX_WAIT_S))

    def result(self) -> list[Address]:
        """Returns the addresses. Raises OSError where there are none."""
        if self._fault is not None:
            raise self._fault
        return self._found

    def _work(self, host: str, port: int) -> None:
        try:
            self._found = _found(host, port)
        except OSError as error:
            self._fault = error
        self._ended.set()


def look_up(host: str, port: int, timeout_s: float) -> list[Address]:
    """Returns the addresses of a host, at least one.

    Args:
        host: A host name or an address in figures, without brackets.
        port: The port.
        timeout_s: How long to wait [s].

    Raises:
        OSError: There is no such host, or the look-up lasts too long. The message names the host.
    """
    if is_literal(host):
        return _found(host, port, socket.AI_NUMERICHOST)
    asked = _LookUp(host, port)
    if not asked.wait(time.monotonic_ns() + int(timeout_s * 1e9)):
        raise TimeoutError(f"no answer to the look-up of {host!r} in {timeout_s:g} s")
    return asked.result()


def is_literal(host: str) -> bool:
    """Returns whether `host` is an address in figures."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def tcp_text(address: Address) -> str:
    """Returns tcp://HOST:PORT of an address, in figures."""
    host, port = address[1][:2]
    scope = address[1][3] if len(address[1]) > 3 else 0
    zone = f"%{scope}" if scope and "%" not in host else ""
    return f"tcp://[{host}{zone}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _found(host: str, port: int, flags: int = 0) -> list[Address]:
    """Returns the addresses of a host, IPv4 first. Raises OSError, which names the host."""
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no host name"
        raise OSError(f"host {host!r}: {reason or error}") from error
    found = [(family, address) for family, _, _, _, address in rows]
    return sorted(found, key=lambda each: each[0] != socket.AF_INET)
