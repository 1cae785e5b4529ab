"""Who may talk to the server: CURVE keys in files, and a limit on bad messages.

A folder of keys, made by `edp keys new DIR --name robot-1`:

    DIR/server.key                     the server's public key; every robot needs a copy
    DIR/server.key_secret              mode 0600, stays with the server
    DIR/clients/robot-1.key            who may connect; removing the file revokes the key
    DIR/private/robot-1.key_secret     mode 0600, goes to the robot (and can then be deleted here)
"""

import contextlib
import os
import re
import shutil
import stat
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from policy_server.observe.logs import Occasional, log
from policy_server.serving.rate_limit import BadMessageLimit
from policy_server.transport.address import ServerError

__all__ = [
    "BadMessageLimit",
    "Changes",
    "ClientKeys",
    "Guard",
    "KeysError",
    "ServerKeys",
    "apply_client",
    "apply_server",
]
__all__ += ["client_keys", "make_keys", "read_clients"]

DOMAIN = "edp"
HANDSHAKE_MS = 3000  # a connection that has not proved who it is by then is closed
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(rb"[0-9A-Za-z.:+=^!/*?&<>()\[\]{}@%$#-]{40}")
_LOG_PERIOD_S = 10.0


class KeysError(ServerError):
    """Keys are missing, malformed or readable by others; the message says which file, and what to do."""


@dataclass(frozen=True)
class ServerKeys:
    """What a server needs. The secret is not shown by repr.

    Attributes:
        public, secret: The server's keys, Z85, 40 characters.
        clients: Folder of the public keys that may connect, NAME.key.
    """

    public: bytes
    secret: bytes = field(repr=False)
    clients: Path

    @classmethod
    def load(cls, folder: str | Path) -> "ServerKeys":
        """Returns the keys of a folder made by `edp keys new`.

        Raises:
            KeysError: A file is missing or malformed, or a secret is readable by others.
        """
        public, secret = _read_secret(Path(folder) / "server.key_secret")
        clients = Path(folder) / "clients"
        if not clients.is_dir():
            raise KeysError(
                f"{clients} is not a folder; make keys with `edp keys new {folder} --name robot-1`"
            )
        return cls(public, secret, clients)


@dataclass(frozen=True)
class ClientKeys:
    """What a robot needs. The secret is not shown by repr.

    Attributes:
        public, secret: The client's keys, Z85, 40 characters.
        server: The server's public key.
    """

    public: bytes
    secret: bytes = field(repr=False)
    server: bytes

    @classmethod
    def load(cls, path: str | Path) -> "ClientKeys":
        """Returns a client's keys.

        Args:
            path: NAME.key_secret with server.key beside it or one folder up, or a folder with both.

        Raises:
            KeysError: A file is missing or malformed, there are several secrets, or one is readable by others.
        """
        file = _the_secret(Path(path))
        places = [folder / "server.key" for folder in (file.parent, file.parent.parent)]
        server_file = next((place for place in places if place.exists()), None)
        if server_file is None:
            raise KeysError(
                f"no server.key beside {file}; copy it from the server's folder of keys"
            )
        return cls(*_read_secret(file), _read(server_file)[0])


def client_keys(path: str | Path | None, has_server: bool = True) -> ClientKeys | None:
    """Returns the keys that a command's --keys names, None where it was not given.

    Args:
        path: See `ClientKeys.load`.
        has_server: Whether the command talks to a server at all.

    Raises:
        KeysError: As of `ClientKeys.load`, or there is no server to show them to.
    """
    if path is None:
        return None
    if not has_server:
        raise KeysError(
            f"--keys {path} is for a server: give --server ENDPOINT as well, or leave --keys out"
        )
    return ClientKeys.load(path)


def make_keys(folder: str | Path, name: str | None = None) -> list[Path]:
    """Makes the server's keys where there are none, and one client's; returns the new files.

    Args:
        folder: Where; made if need be, readable by its owner only.
        name: Of the client; None for the server's keys alone.

    Raises:
        KeysError: The name is not a plain file name, or such a client has keys already: nothing is overwritten.
    """
    folder = Path(folder)
    if name is not None and (not _NAME.fullmatch(name) or name == "server"):
        raise KeysError(
            f"client name {name!r}: expected letters, digits, dot, dash, underscore, and not 'server'"
        )
    for place in (folder, folder / "clients", folder / "private"):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = []
    if not (folder / "server.key_secret").exists():
        made += _make_pair("server", folder / "server.key", folder / "server.key_secret")
    if name is not None:
        made += _make_pair(
            name, folder / "clients" / f"{name}.key", folder / "private" / f"{name}.key_secret"
        )
    return made


def read_clients(folder: Path) -> tuple[dict[bytes, str], list[str]]:
    """Returns the names of the clients by public key, and what is wrong with the files that cannot be read."""
    names: dict[bytes, str] = {}
    faults = []
    for file in sorted(folder.glob("*.key")):
        try:
            names[_read(file)[0]] = file.stem
        except KeysError as error:
            faults.append(str(error))
    return names, faults


def apply_server(socket: zmq.Socket, keys: ServerKeys) -> None:
    """Makes a socket, before it binds, talk to clients whose key a `Guard` in its context knows, and to nobody else."""
    socket.curve_server = True
    socket.curve_publickey = keys.public
    socket.curve_secretkey = keys.secret
    socket.setsockopt_string(zmq.ZAP_DOMAIN, DOMAIN)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(
        zmq.ZAP_ENFORCE_DOMAIN, 1
    )  # without a Guard nobody gets in; ZeroMQ would let everybody in


def apply_client(socket: zmq.Socket, keys: ClientKeys) -> None:
    """Makes a socket, before it connects, prove who it is and talk to this one server only."""
    socket.curve_serverkey = keys.server
    socket.curve_publickey = keys.public
    socket.curve_secretkey = keys.secret


class Changes(NamedTuple):
    """What a refresh found: names of clients that came and went, and files that cannot be read."""

    added: list[str]
    removed: list[str]
    faults: list[str]


class Guard:
    """Answers, in a thread of its own, which client keys may connect. Make it before the server's socket binds.

    ZeroMQ asks once a connection: a key that `refresh` no longer finds is refused from then on, and what is connected
    with it stays connected until the server's socket is closed.

    Args:
        context: Of the server's socket; it takes one Guard at a time.
        keys: Whose clients to admit.

    Raises:
        KeysError: A client's key cannot be read.
        ServerError: The context has a Guard already.
    """

    def __init__(self, context: zmq.Context, keys: ServerKeys):
        self._folder = keys.clients
        self._names, faults = read_clients(self._folder)
        if faults:
            raise KeysError("; ".join(faults))
        self._refusals = Occasional(_LOG_PERIOD_S)
        self._lock = threading.Lock()
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.configure_curve_callback(DOMAIN, self)
        try:
            self._authenticator.start()
        except zmq.ZMQError as error:
            self.close()
            raise ServerError(
                f"cannot check keys: {error}; use a zmq.Context for each server with keys"
            ) from error

    def callback(self, domain: str, key: bytes) -> bool:
        """Returns whether the client with this public key may connect (called by pyzmq)."""
        name = self._names.get(bytes(key))
        if name is not None:
            log("client_admitted", client=name)
        elif (n_suppressed := self._refusals.due("key")) is not None:
            log(
                "client_refused",
                level="warning",
                key=bytes(key).decode("ascii", "replace"),
                n_suppressed=n_suppressed,
            )
        return name is not None

    def refresh(self) -> Changes:
        """Reads the clients' folder again; files that cannot be read, and their clients, do not count."""
        with self._lock:
            old = self._names
            self._names, faults = read_clients(self._folder)
            added, removed = self._names.keys() - old.keys(), old.keys() - self._names.keys()
        return Changes(
            sorted(self._names[k] for k in added), sorted(old[k] for k in removed), faults
        )

    def close(self) -> None:
        """Ends the thread; nobody can connect from now on."""
        self._authenticator.stop()


def _make_pair(name: str, public_file: Path, secret_file: Path) -> list[Path]:
    """Makes a pair of keys; returns its two files. Raises KeysError where one of them exists."""
    with tempfile.TemporaryDirectory(dir=secret_file.parent) as scratch:  # mode 0700
        public, secret = map(Path, zmq.auth.create_certificates(scratch, name))
        secret.chmod(0o600)
        public.chmod(0o644)
        for target in (secret_file, public_file):
            if target.exists():
                raise KeysError(
                    f"{target} exists and is not overwritten; choose another name, or remove it first"
                )
        shutil.move(secret, secret_file)
        shutil.move(public, public_file)
    return [public_file, secret_file]


def _the_secret(path: Path) -> Path:
    """Returns the client's secret file: `path`, or the only one in the folder `path`."""
    if not path.is_dir():
        return path
    found = sorted(file for file in path.glob("*.key_secret") if file.name != "server.key_secret")
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise KeysError(
            f"{path} has these clients' secrets: {names}; expected one: name the file itself"
        )
    return found[0]


def _read_secret(file: Path) -> tuple[bytes, bytes]:
    """Returns the pair (public, secret) of a file that only its owner may read. Raises KeysError."""
    with contextlib.suppress(OSError):
        mode = file.stat().st_mode
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise KeysError(
                f"{file} is readable by others (mode {mode & 0o777:04o}); run: chmod 600 {file}"
            )
    public, secret = _read(file)
    if secret is None:
        raise KeysError(f"{file} has no secret key; expected a .key_secret file")
    if zmq.curve_public(secret) != public:
        raise KeysError(f"{file}: public and secret key do not belong together; make new ones")
    return public, secret


def _read(file: Path) -> tuple[bytes, bytes | None]:
    """Returns (public, secret or None) of a key file. Raises KeysError."""
    try:
        public, secret = zmq.auth.load_certificate(file)
    except (OSError, ValueError) as error:
        raise KeysError(
            f"cannot read the key in {file}: {error}; make keys with `edp keys new DIR`"
        ) from error
    for key in (public, *([secret] if secret else [])):
        if not _KEY.fullmatch(key):
            raise KeysError(
                f"{file}: a key is not 40 characters of Z85, the file is damaged; copy it again"
            )
    return public, secret
