from edp_robot.cli import keys
from policy_server.security import ClientKeys


def test_new_keys_and_their_list(tmp_path, capsys):
    assert keys.new(tmp_path / "k", "robot-7") == 0
    out = capsys.readouterr().out
    assert "private/robot-7.key_secret  (secret, mode 0600)" in out and f"--keys {tmp_path}/k" in out
    robot = ClientKeys.load(tmp_path / "k/private/robot-7.key_secret")
    assert keys.list_keys(tmp_path / "k") == 0
    out = capsys.readouterr().out
    assert robot.public.decode() in out and robot.secret.decode() not in out and "its secret is still here" in out


def test_an_unusable_file_is_listed_and_an_exit_status(tmp_path, capsys):
    keys.new(tmp_path / "k")
    (tmp_path / "k/clients/x.key").write_text("nothing")
    assert keys.list_keys(tmp_path / "k") == 1 and "unusable: cannot read the key" in capsys.readouterr().out
