"""Key files: what a folder holds, and what is refused."""

import stat

import pytest

from policy_server.transport.keys import ClientKeys, KeysError, ServerKeys, client_keys, make_keys


@pytest.fixture
def folder(tmp_path):
    make_keys(tmp_path / "keys", "robot-1")
    make_keys(tmp_path / "keys", "robot-2")
    return tmp_path / "keys"


def load_client(folder, name="robot-1"):
    return ClientKeys.load(folder / "private" / f"{name}.key_secret")


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*.key*")}


def test_the_folder_holds_these_files_with_these_modes(folder):
    modes = {
        str(file.relative_to(folder)): stat.S_IMODE(file.stat().st_mode)
        for file in folder.rglob("*")
        if file.is_file()
    }
    assert modes == {
        "server.key_secret": 0o600,
        "private/robot-1.key_secret": 0o600,
        "private/robot-2.key_secret": 0o600,
        "server.key": 0o644,
        "clients/robot-1.key": 0o644,
        "clients/robot-2.key": 0o644,
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in folder.rglob("*.key"):
        assert "secret-key" not in file.read_text()


def test_repr_does_not_show_secrets(folder):
    for keys in (ServerKeys.load(folder), load_client(folder)):
        assert keys.secret.decode() not in repr(keys)
        assert keys.public.decode() in repr(keys)


def test_no_file_is_overwritten(folder):
    before = contents(folder)
    with pytest.raises(KeysError, match=r"robot-1\.key_secret exists and is not overwritten"):
        make_keys(folder, "robot-1")
    (folder / "private" / "robot-1.key_secret").unlink()  # It was moved to the robot.
    with pytest.raises(KeysError, match=r"robot-1\.key exists and is not overwritten"):
        make_keys(folder, "robot-1")
    assert make_keys(folder) == []
    assert contents(folder).items() <= before.items()


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "server", "a b", "a\n", "x" * 65])
def test_names_are_plain_file_names(tmp_path, name):
    with pytest.raises(KeysError, match="expected letters, digits"):
        make_keys(tmp_path / "keys", name)
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_secrets_that_others_can_read_are_refused(folder, mode):
    for file, load in (
        ("server.key_secret", ServerKeys.load),
        ("private/robot-1.key_secret", load_client),
    ):
        (folder / file).chmod(mode)
        with pytest.raises(KeysError, match=rf"mode {mode:04o}\); run: chmod 600 .*{file}"):
            load(folder)


def test_an_error_names_the_missing_file(folder, tmp_path):
    with pytest.raises(KeysError, match=r"server\.key_secret.*edp keys new"):
        ServerKeys.load(tmp_path)
    with pytest.raises(KeysError, match=r"robot-1\.key_secret, robot-2\.key_secret; expected one"):
        ClientKeys.load(folder / "private")
    with pytest.raises(KeysError, match="secrets: none"):
        ClientKeys.load(folder)
    (folder / "server.key").unlink()
    with pytest.raises(KeysError, match=r"no server\.key beside"):
        load_client(folder)


def test_a_robots_folder_holds_both_files(folder, tmp_path):
    robot = tmp_path / "robot"
    robot.mkdir()
    for file in ("private/robot-1.key_secret", "server.key"):
        (robot / file.split("/")[-1]).write_bytes((folder / file).read_bytes())
    (robot / "robot-1.key_secret").chmod(0o600)
    assert ClientKeys.load(robot) == load_client(folder)
    assert ClientKeys.load(robot).server == ServerKeys.load(folder).public


def test_pairs_that_do_not_belong_together_are_refused(folder):
    one = folder / "private/robot-1.key_secret"
    two = folder / "private/robot-2.key_secret"
    foreign = load_client(folder, "robot-2").public.decode()
    one.write_text(one.read_text().replace(load_client(folder).public.decode(), foreign))
    with pytest.raises(KeysError, match="do not belong together"):
        ClientKeys.load(one)
    two.write_text((folder / "server.key").read_text())
    with pytest.raises(KeysError, match="no secret key"):
        ClientKeys.load(two)


def test_the_option_keys_needs_a_server(folder):
    secret = folder / "private" / "robot-1.key_secret"
    assert client_keys(None) is None and client_keys(None, has_server=False) is None
    assert client_keys(secret) == load_client(folder)
    with pytest.raises(KeysError, match="give --server ENDPOINT"):
        client_keys(secret, has_server=False)
