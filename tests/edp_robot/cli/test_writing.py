"""Every output of every command is checked; output that is not read ends no command."""

import dataclasses
import errno
import importlib
import inspect
import io
from pathlib import Path
from typing import get_type_hints

import pytest

from edp_robot import cli
from edp_robot.cli.streams import Lasting, lasting_output
from edp_robot.cli.writing import checked, write_each
from policy_server.contract.disk.outputs import OutFile, OutFolder

OUTPUTS = {"json", "record", "samples", "figure", "out"}


class Gone(io.StringIO):
    """A stream that fails with `number`."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, "gone")


def parameters(name):
    """Yields name and annotation of each parameter of a command, and of its options' fields."""
    module, _, function = cli.COMMANDS[name][0].partition(":")
    command = getattr(importlib.import_module(module), function)
    hints = get_type_hints(command, include_extras=True)
    for parameter in inspect.signature(command).parameters:
        yield parameter, hints[parameter]
        plain = get_type_hints(command)[parameter]
        if dataclasses.is_dataclass(plain):
            yield from get_type_hints(plain, include_extras=True).items()


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_output_of_every_command_is_marked_as_one(name):
    kinds = (OutFile, OutFolder, OutFile | None, OutFolder | None, bool)
    plain = [key for key, hint in parameters(name) if key in OUTPUTS and hint not in kinds]
    assert plain == []


def test_outputs_in_a_dataclass_are_checked_too(tmp_path):
    @dataclasses.dataclass
    class Options:
        out: OutFolder
        json: OutFile | None = None

    @checked
    def command(options: Options) -> int:
        pytest.fail("it must not run")

    file = tmp_path / "file"
    file.write_text("kept")
    # A local class is not found by name, as those of commands are.
    command.__wrapped__.__annotations__["options"] = Options
    with pytest.raises(OSError, match=r"--out: .*file is a file: give a folder"):
        command(Options(out=file))
    with pytest.raises(OSError, match=r"--json: .* is a folder: give a file"):
        command(Options(out=tmp_path / "new", json=tmp_path))
    with pytest.raises(ValueError, match="--out and --json both name"):
        command(Options(out=tmp_path / "new", json=tmp_path / "new"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_all_files_are_written_though_one_fails():
    done = []

    def fail():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full; disk full"):
        write_each(fail, lambda: done.append(1), fail, lambda: done.append(2))
    assert done == [1, 2]


@pytest.mark.parametrize(
    ("number", "is_cut"),
    [(errno.EPIPE, False), (errno.EIO, False), (errno.ENXIO, False), (errno.ENOSPC, True)],
)
def test_a_stream_that_is_gone_raises_nothing(number, is_cut):
    stream = Lasting(Gone(number))
    assert print("x", file=stream, flush=True) is None
    assert print("y", file=stream, flush=True) is None
    assert stream.error.errno == number and stream.is_cut() == is_cut


def test_a_full_disk_behind_stdout_is_a_failure(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout", Gone(errno.ENOSPC))
    assert cli.main([]) == 1
    assert "output is missing" in capsys.readouterr().err


def test_without_stdout_a_command_runs(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    with lasting_output() as out:
        assert out is None
        print("dropped")
    assert cli.main([]) == 0


def test_the_stream_is_the_one_below_in_all_else(tmp_path):
    with (tmp_path / "x").open("w", encoding="latin-1", errors="replace") as file:
        stream = Lasting(file)
        print("ä", file=stream)
        assert (stream.encoding, stream.errors) == ("latin-1", "replace")
        assert stream.fileno() == file.fileno() and stream.buffer is file.buffer
        assert not stream.isatty() and stream.writable()
    assert Path(tmp_path / "x").read_bytes() == b"\xe4\n"
