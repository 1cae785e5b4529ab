import subprocess

from policy_server.contract.commit import UNKNOWN, source_commit


def test_a_commit_is_that_of_a_file_under_version_control(tmp_path):
    def git(*args):
        me = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *me, *args], check=True, capture_output=True)

    file = tmp_path / "a.py"
    other = tmp_path / "b.py"
    file.write_text("1")
    other.write_text("2")
    assert source_commit(file) == UNKNOWN
    git("init")
    git("add", "a.py")
    git("commit", "-m", "x")
    head = source_commit(file)
    assert len(head) == 40
    assert source_commit(other) == UNKNOWN
    file.write_text("3")
    assert source_commit(file) == f"{head}+"
