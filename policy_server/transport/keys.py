"""Makes, loads and checks the CURVE keys of a server and its clients.

`edp keys new DIR --name robot-1` makes this folder:

    DIR/server.key                     the server's public key; every robot needs a copy
    DIR/server.key_secret              mode 0600, stays with the server
    DIR/clients/robot-1.key            a client that may connect; removing the file revokes its key
    DIR/private/robot-1.key_secret     mode 0600, goes to the robot (and can then be deleted here)
"""

import contextlib
import os
import re
import shutil
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import zmq
import zmq.auth

from policy_server.contract.errors import ServerError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(rb"[0-9A-Za-z.:+=^!/*?&<>()\[\]{}@%$#-]{40}")


class KeysError(ServerError):
    """A key is missing, malformed or readable by others. The message says what to do."""


@dataclass(frozen=True)
class ServerKeys:
    """The keys of a server. repr does not show the secret.

    Attributes:
        public: The server's public key, 40 characters of Z85.
        secret: The server's secret key, likewise.
        clients: Folder of the public keys that may connect, NAME.key.
    """

    public: bytes
    secret: bytes = field(repr=False)
    clients: Path

    @classmethod
    def load(cls, folder: str | Path) -> "ServerKeys":
        """Returns the keys of a folder that `edp keys new` made.

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
    """The keys of a robot. repr does not show the secret.

    Attributes:
        public: The client's public key, 40 characters of Z85.
        secret: The client's secret key, likewise.
        server: The server's public key.
    """

    public: bytes
    secret: bytes = field(repr=False)
    server: bytes

    @classmethod
    def load(cls, path: str | Path) -> "ClientKeys":
        """Returns a client's keys.

        Args:
            path: NAME.key_secret with server.key beside it or one folder up, or a folder that holds
                both.

        Raises:
            KeysError: A file is missing or malformed, there are several secrets, or one is readable
                by others.
        """
        file = _the_secret(Path(path))
        places = [folder / "server.key" for folder in (file.parent, file.parent.parent)]
        server_file = next((place for place in places if place.exists()), None)
        if server_file is None:
            raise KeysError(
                f"no server.key beside {file}; copy it from the server's folder of keys"
            )
        public, secret = _read_secret(file)
        server, _ = _read(server_file)
        return cls(public, secret, server)


def client_keys(path: str | Path | None, has_server: bool = True) -> ClientKeys | None:
    """Returns the keys that a command's --keys names, None where it was not given.

    Args:
        path: See `ClientKeys.load`.
        has_server: Whether the command talks to a server at all.

    Raises:
        KeysError: `ClientKeys.load` refuses the path, or the command talks to no server.
    """
    if path is None:
        return None
    if not has_server:
        raise KeysError(
            f"--keys {path} is for a server: give --server ENDPOINT as well, or leave --keys out"
        )
    return ClientKeys.load(path)


def make_keys(folder: str | Path, name: str | None = None) -> list[Path]:
    """Makes one client's keys, and the server's keys where there are none. Returns the new files.

    Args:
        folder: Key folder. It is made where it is missing, readable by its owner only.
        name: Name of the client. None makes the server's keys alone.

    Raises:
        KeysError: The name is not a plain file name, or this client has keys already. No file is
            overwritten.
    """
    folder = Path(folder)
    clients = folder / "clients"
    private = folder / "private"
    if name is not None and (not _NAME.fullmatch(name) or name == "server"):
        raise KeysError(
            f"client name {name!r}: expected letters, digits, dot, dash, underscore; not 'server'"
        )
    for place in (folder, clients, private):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = []
    if not (folder / "server.key_secret").exists():
        made += _make_pair("server", folder / "server.key", folder / "server.key_secret")
    if name is not None:
        made += _make_pair(name, clients / f"{name}.key", private / f"{name}.key_secret")
    return made


def read_clients(folder: Path) -> tuple[dict[bytes, str], list[str]]:
    """Returns the clients' names by public key, and the faults of files that cannot be read."""
    names: dict[bytes, str] = {}
    faults = []
    for file in sorted(folder.glob("*.key")):
        try:
            public, _ = _read(file)
        except KeysError as error:
            faults.append(str(error))
        else:
            names[public] = file.stem
    return names, faults


def _make_pair(name: str, public_file: Path, secret_file: Path) -> list[Path]:
    """Makes a pair of keys and returns its two files. Raises KeysError where one exists."""
    with tempfile.TemporaryDirectory(dir=secret_file.parent) as scratch:  # mode 0700
        public, secret = map(Path, zmq.auth.create_certificates(scratch, name))
        secret.chmod(0o600)
        public.chmod(0o644)
        for target in (secret_file, public_file):
            if target.exists():
                raise KeysError(
                    f"{target} exists and is not overwritten; choose another name or remove it"
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
    """Returns (public, secret) of a file that only its owner may read. Raises KeysError."""
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
