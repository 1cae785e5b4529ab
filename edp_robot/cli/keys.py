"""`edp keys new` and `edp keys list`: which clients may talk to a policy server."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional


def new(folder: Positional[Path], name: str = "robot-1") -> int:
    """Make keys for one robot, and for the server where it has none yet.

    Example: edp keys new keys --name robot-1

    Args:
        folder: Key folder of the server, for `edp serve --keys`. It is made where it is missing.
        name: Name of the robot. A name that has keys already is refused.
    """
    from policy_server.transport.keys import make_keys

    for file in make_keys(folder, name):
        print(f"made {file}{'  (secret, mode 0600)' if file.suffix == '.key_secret' else ''}")
    secret = f"{folder}/private/{name}.key_secret"
    print(
        f"server: edp serve BUNDLE --bind 'tcp://*:5599' --keys {folder}\n"
        f"robot:  copy {secret} and {folder}/server.key there over a channel that you trust\n"
        f"        (scp -p), then delete {secret} here; client: --keys {name}.key_secret"
    )
    return 0


def list_keys(folder: Positional[Path]) -> int:
    """List the robots that a key folder admits. The exit status is 1 where a file is unusable.

    Example: edp keys list keys

    Args:
        folder: Key folder of the server.
    """
    from policy_server.transport.keys import ServerKeys, read_clients

    keys = ServerKeys.load(folder)
    names, faults = read_clients(keys.clients)
    print(f"{'server':<24}{keys.public.decode()}")
    for public, name in sorted(names.items(), key=lambda item: item[1]):
        is_here = (folder / "private" / f"{name}.key_secret").exists()
        note = "  (its secret is still here)" if is_here else ""
        print(f"{name:<24}{public.decode()}{note}")
    for fault in faults:
        print(f"unusable: {fault}")
    print(f"to revoke a robot's key: remove {keys.clients}/NAME.key, then send the server SIGHUP")
    return int(bool(faults))
