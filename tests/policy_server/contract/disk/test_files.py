import math
import os
import subprocess
import sys

import pytest

from policy_server.contract.disk.files import (
    json_text,
    replace_folder,
    temporary_path,
    write_atomic,
    write_json,
)


def test_content_replaces_what_was_there_and_folders_are_made(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    write_atomic(path, "first")
    write_atomic(path, "zweite Zeile: ä".encode())
    assert path.read_text(encoding="utf-8") == "zweite Zeile: ä"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def test_a_failure_before_the_rename_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_json_is_strict_and_sorted(tmp_path):
    assert (
        json_text({"b": 1, "a": [True, None]}) == '{\n "a": [\n  true,\n  null\n ],\n "b": 1\n}\n'
    )
    for value, error in ((math.nan, ValueError), (math.inf, ValueError), ({1}, TypeError)):
        with pytest.raises(error):
            write_json(tmp_path / "a.json", {"a": value})
    assert not list(tmp_path.iterdir())


def test_json_for_no_path_is_not_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json(None, {"a": 1})
    assert not list(tmp_path.iterdir())
    write_json("a.json", {"a": 1})
    assert (tmp_path / "a.json").read_text() == '{\n "a": 1\n}\n'


def test_what_killed_processes_left_is_swept_and_the_living_keep_theirs(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    path = tmp_path / "a.txt"
    own = temporary_path(path).name.replace(str(os.getpid()), "{}")
    for name in (own.format(gone.pid), f".a.txt.{gone.pid}.tmp", own.format(os.getppid())):
        (tmp_path / name).write_text("part")
    (tmp_path / f".a.txt.elsewhere@{gone.pid}.tmp").write_text("another machine's")
    (tmp_path / f".b.txt.{gone.pid}.tmp").write_text("another file's")
    write_atomic(path, "new")
    kept = {own.format(os.getppid()), f".a.txt.elsewhere@{gone.pid}.tmp", f".b.txt.{gone.pid}.tmp"}
    assert {entry.name for entry in tmp_path.iterdir()} == kept | {"a.txt"}


def test_the_scratch_folder_of_a_killed_save_is_swept_but_for_what_is_not_ours(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    scratch = tmp_path / f".b.{gone.pid}.x1.tmp"
    (scratch / "new").mkdir(parents=True)
    (scratch / "new" / "a.txt").write_text("part")
    replace_folder(tmp_path / "b", {"a.txt": b"whole"})
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]
    (scratch / "new").mkdir(parents=True)
    (scratch / "new" / "guest").write_text("a person's")
    replace_folder(tmp_path / "b", {"a.txt": b"again"}, ["a.txt"])
    assert (scratch / "new" / "guest").read_text() == "a person's"
    assert (tmp_path / "b" / "a.txt").read_bytes() == b"again"
