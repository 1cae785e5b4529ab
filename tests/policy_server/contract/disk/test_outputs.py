import os
import threading
from pathlib import Path

import pytest

from policy_server.contract.disk.files import descriptor, write_json
from policy_server.contract.disk.outputs import check_file, check_folder


def test_a_pipe_is_written_as_it_is(tmp_path):
    """`--json /dev/stdout | jq` names a pipe that stands in no folder."""
    read_fd, write_fd = os.pipe()
    path = f"/dev/fd/{write_fd}"
    check_file(path)
    write_json(path, {"n": 1})
    os.close(write_fd)
    with open(read_fd) as pipe:
        assert pipe.read() == '{\n "n": 1\n}\n'


@pytest.mark.parametrize("link", [False, True])
def test_an_open_file_is_added_to(link, tmp_path):
    """`--json /dev/stdout >> log` keeps what the log had."""
    log = tmp_path / "log"
    log.write_text("before\n")
    with log.open("a") as file:
        path = Path(f"/dev/fd/{file.fileno()}")
        if link:
            (tmp_path / "link").symlink_to(path)
            path = tmp_path / "link"
        check_file(path)
        write_json(path, 1)
        write_json(path, 2)
        file.write("after\n")
    assert log.read_text() == "before\n1\n2\nafter\n"
    assert descriptor(log) is None and descriptor("/dev/fd") is None


def test_a_link_to_itself_or_a_closed_file_names_no_open_one(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert descriptor(loop) is None
    with pytest.raises(OSError):
        check_file("/dev/fd/9999")


def test_a_named_pipe_stays_one(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read = []
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    check_file(path)
    write_json(path, [2])
    reader.join(60)
    assert read == ["[\n 2\n]\n"] and path.is_fifo()


def test_of_a_link_the_file_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "real" / "file.json")
    check_file(link)
    write_json(link, 3)
    assert link.is_symlink() and (tmp_path / "real" / "file.json").read_text() == "3\n"


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(IsADirectoryError, match="give a file"):
        check_file(tmp_path)
    with pytest.raises(NotADirectoryError, match="must be a folder"):
        check_file(tmp_path / "file" / "a.json")
    with pytest.raises(NotADirectoryError, match="give a folder"):
        check_folder(tmp_path / "file")
    check_file(tmp_path / "new" / "a.json")
    check_folder(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
