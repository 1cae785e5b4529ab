"""`edp keys new` and `edp keys list`: who may talk to a policy server."""

from __future__ import annotations

from pathlib import Path


def new(folder: Path, name: str = "robot-1") -> int:
    """Make the server's keys, where there are none yet, and those of one robot.

    Example: edp keys new keys --name robot-1

    Args:
        folder: Of the server's keys, for `edp serve --keys`; made if need be.
        name: Of the robot; a name that has keys already is refused.
    """
    from policy_server.transport.keys import make_keys

    for file in make_keys(folder, name):
        print(f"made {file}{'  (secret, mode 0600)' if file.suffix == '.key_secret' else ''}")
    print(f"server: edp serve BUNDLE --bind 'tcp://*:5599' --keys {folder}")
    print(
        f"robot:  take {folder}/private/{name}.key_secret and {folder}/server.key there over a channel that you trust\n"
        f"        (scp -p), then delete {folder}/private/{name}.key_secret here; client: --keys {name}.key_secret"
    )
    return 0


def list_keys(folder: Path) -> int:
    """List the robots that a folder of keys admits.

    Example: edp keys list keys

    Args:
        folder: Of the server's keys.
    """
    from policy_server.transport.keys import ServerKeys, read_clients

    keys = ServerKeys.load(folder)
    names, faults = read_clients(keys.clients)
    print(f"{'server':<24}{keys.public.decode()}")
    for public, name in sorted(names.items(), key=lambda item: item[1]):
        left_here = (
            "  (its secret is still here)"
            if (folder / "private" / f"{name}.key_secret").exists()
            else ""
        )
        print(f"{name:<24}{public.decode()}{left_here}")
    for fault in faults:
        print(f"unusable: {fault}")
    print(f"to revoke a robot's key: remove {keys.clients}/NAME.key, then send the server SIGHUP")
    return int(bool(faults))
