"""Serves a server's metrics, liveness and readiness over HTTP.

    /metrics    the metrics of `policy_server.observe.metrics`
    /healthz    200 while the serving loop turns or the policy is being loaded, else 503
    /readyz     200 while robots are served, 503 while loading and draining

The serving loop itself makes a snapshot when a scrape asks for one, so that no count is read
half-way. There is no authentication: listen on loopback, or in a network that you trust.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Literal, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from policy_server.contract.errors import ServerError
from policy_server.observe.metrics import Snapshot, metrics_app
from policy_server.transport.address import split_host
from policy_server.transport.names import Address, look_up

TICK_LIMIT_S = 5.0
LOOK_UP_S = 5.0
_MAX_CONNECTIONS = 8
_METHODS = ("GET", "HEAD")
App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True)
class Health:
    """Whether a server lives and serves.

    Attributes:
        state: loading, serving or draining.
        ticked_ns: When its loop last turned, monotonic [ns].
    """

    state: Literal["loading", "serving", "draining"]
    ticked_ns: int

    def alive(self, now_ns: int) -> bool:
        """Returns whether the loop turned in the last TICK_LIMIT_S, or a policy is being loaded."""
        return self.state == "loading" or now_ns - self.ticked_ns < TICK_LIMIT_S * 1e9


class Source(Protocol):
    """A server that a `Monitor` shows."""

    def snapshot(self) -> Snapshot:
        """Returns what the server has done. Only the serving thread may call it."""
        ...

    def health(self) -> Health:
        """Returns the server's state. Any thread may call it."""
        ...


class OnLoop:
    """Lets other threads ask the serving thread for a value. `poll` is cheap while no thread asks.

    Args:
        make: Makes the value. `poll` calls it, in the thread that owns the data.
    """

    def __init__(self, make: Callable[[], Any]):
        self._make = make
        self._lock = threading.Lock()
        self._wanted = False
        self._made = threading.Event()
        self._value: Any = None

    def poll(self) -> None:
        """Makes the value if another thread waits for it. The serving thread calls it each turn."""
        if self._wanted:
            self._wanted = False
            self._value = self._make()
            self._made.set()

    def ask(self, timeout_s: float = 2.0) -> Any:
        """Returns what `make` returns at the next `poll`.

        Raises:
            TimeoutError: There was no `poll` within `timeout_s`.
        """
        with self._lock:
            self._made.clear()
            self._wanted = True
            if not self._made.wait(timeout_s):
                raise TimeoutError(f"the serving loop did not turn for {timeout_s} s")
            return self._value


class Monitor:
    """The pages of one server. They are up while the policy is still being loaded.

    Attributes:
        address: HOST:PORT where they are.

    Args:
        address: HOST:PORT. PORT alone means 127.0.0.1:PORT, and port 0 picks a free one.

    Raises:
        ServerError: The address is malformed or in use, or prometheus-client is not installed.
    """

    def __init__(self, address: str):
        self._source: Source | None = None
        self._on_loop = OnLoop(self._snapshot)
        self._http = serve_pages(address, self._on_loop.ask, self.health)
        self.address = self._http.address

    def attach(self, source: Source) -> None:
        """Shows this server from now on. It must call `poll` every turn of its loop."""
        self._source = source

    def poll(self) -> None:
        """Makes a snapshot if a scrape waits for one."""
        self._on_loop.poll()

    def health(self) -> Health:
        """Returns the server's state."""
        if self._source is None:
            return Health("loading", time.monotonic_ns())
        return self._source.health()

    def close(self) -> None:
        """Stops listening."""
        self._http.close()

    def _snapshot(self) -> Snapshot:
        assert self._source is not None
        return self._source.snapshot()


def serve_pages(
    address: str, snapshot: Callable[[], Snapshot], health: Callable[[], Health]
) -> "_PageServer":
    """Returns a running HTTP server with /metrics, /healthz and /readyz.

    Args:
        address: See `Monitor`.
        snapshot: Returns the snapshot of a scrape. It is called in another thread and may raise
            TimeoutError.
        health: Returns the state for the other two pages. It is called in another thread.

    Raises:
        ServerError: The address is malformed or in use, or prometheus-client is not installed.
    """
    found = split_host(address if ":" in address else f":{address}")
    if found is None:
        raise ServerError(
            f"metrics address {address!r}: expected HOST:PORT, like 127.0.0.1:9464 or [::1]:9464"
        )
    host, port = found
    app = _pages(metrics_app(snapshot), health)
    try:
        return _PageServer(look_up(host or "127.0.0.1", port, LOOK_UP_S)[0], app)
    except (OSError, OverflowError) as error:
        raise ServerError(
            f"cannot serve metrics on {address}: {error}; choose another --metrics"
        ) from error


def _pages(
    metrics: Callable[..., Iterable[bytes]], health: Callable[[], Health]
) -> Callable[..., Iterable[bytes]]:
    """Returns a WSGI application with the three pages."""

    def healthz() -> tuple[HTTPStatus, str]:
        found = health()
        now_ns = time.monotonic_ns()
        if found.alive(now_ns):
            return HTTPStatus.OK, "ok"
        still_s = (now_ns - found.ticked_ns) * 1e-9
        return HTTPStatus.SERVICE_UNAVAILABLE, f"the serving loop stands still for {still_s:.0f} s"

    def readyz() -> tuple[HTTPStatus, str]:
        state = health().state
        is_ready = state == "serving"
        return HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE, state

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            try:
                return [b"".join(metrics(environ, start_response))]
            except TimeoutError as error:
                return _text(start_response, HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        page = {"/healthz": healthz, "/readyz": readyz}.get(path)
        if page is None:
            expected = "expected /metrics, /healthz or /readyz"
            return _text(start_response, HTTPStatus.NOT_FOUND, expected)
        return _text(start_response, *page())

    return _reading_only(app)


def _reading_only(app: App) -> App:
    """Returns an application that answers HEAD like GET without the body, and nothing else."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        if method not in _METHODS:
            allowed = ", ".join(_METHODS)
            status = HTTPStatus.METHOD_NOT_ALLOWED
            return _text(start_response, status, f"expected {allowed}", ("Allow", allowed))
        said: list[tuple[str, list[tuple[str, str]]]] = []
        as_get = {**environ, "REQUEST_METHOD": "GET"}
        body = b"".join(app(as_get, lambda status, headers: said.append((status, headers))))
        status, headers = said[-1]
        names = {name.lower() for name, _ in headers}
        length = [] if "content-length" in names else [("Content-Length", str(len(body)))]
        start_response(status, [*headers, *length])
        return [b"" if method == "HEAD" else body]

    return answer


def _text(
    start_response: Callable[..., Any], status: HTTPStatus, text: str, *headers: tuple[str, str]
) -> Iterable[bytes]:
    """Returns the body of a plain text answer."""
    body = f"{text}\n".encode()
    kind = ("Content-Type", "text/plain; charset=utf-8")
    said = [kind, ("Content-Length", str(len(body))), *headers]
    start_response(f"{status.value} {status.phrase}", said)
    return [body]


class _PageServer(ThreadingMixIn, WSGIServer):
    """Answers in its own threads until `close`, on a bounded number of connections."""

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, address: Address, app: App):
        self._slots = threading.Semaphore(_MAX_CONNECTIONS)
        self.address_family, where = address
        super().__init__(where, _Handler)
        self.set_app(app)
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.1,), name="metrics", daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> str:
        """HOST:PORT where it listens."""
        host, port = self.server_address[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"

    def server_bind(self) -> None:
        """Binds without the look-up of this host's name, which HTTPServer makes and waits for."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]
        self.setup_environ()

    def close(self) -> None:
        """Stops listening."""
        self.shutdown()
        self._thread.join()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers in a thread, or closes the connection where too many are open."""
        if not self._slots.acquire(blocking=False):
            return self.shutdown_request(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers one request and frees its slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores a client that closed its connection."""


class _Handler(WSGIRequestHandler):
    timeout = 2.0  # Between two bytes of a request [s].

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing."""
