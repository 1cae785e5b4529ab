import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edp_robot.training import checkpoint
from edp_robot.training.checkpoint import flatten, load_tree, save_tree, unflatten


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        # Tuples come back as lists.
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


TREE = {
    "text": "arm",
    "none": None,
    "flags": [True, 1, 1.5, 0.1 + 0.2],
    "big": 2**100,
    "nested": {
        "a": {3: torch.arange(4), 1: torch.tensor(2.5)},
        "empty": {},
        "list": [torch.ones(2, 3), []],
    },
    "no_rows": torch.zeros(0, 3),
    "double": torch.tensor([1 / 3], dtype=torch.float64),
    "bool": torch.tensor([True, False]),
    "view": torch.arange(6).reshape(2, 3).T,
}


def test_tree_comes_back():
    assert same(TREE, unflatten(*flatten(TREE)))


def test_tree_comes_back_from_disk(tmp_path):
    save_tree(tmp_path / "a", TREE)
    assert same(TREE, load_tree(tmp_path / "a"))


def test_arrays_come_back_as_tensors(tmp_path):
    save_tree(tmp_path / "a", {"x": np.arange(3.0), "y": np.array([1], np.uint8)})
    saved = load_tree(tmp_path / "a")
    assert saved["x"].tolist() == [0, 1, 2]
    assert saved["y"].dtype == torch.uint8


def test_saved_tensors_are_copies():
    x = torch.zeros(3)
    tensors, _ = flatten({"x": x})
    x += 1
    assert tensors["/x"].tolist() == [0, 0, 0]


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()


def test_optimizer_goes_on_where_it_was(tmp_path):
    torch.manual_seed(0)
    models = [nn.Linear(3, 2), nn.Linear(3, 2)]
    adams = [torch.optim.Adam(m.parameters(), lr=0.1, betas=(0.8, 0.9)) for m in models]
    for _ in range(3):
        step(models[0], adams[0])
    save_tree(tmp_path / "a", {"model": models[0].state_dict(), "adam": adams[0].state_dict()})
    saved = load_tree(tmp_path / "a")
    assert list(saved["adam"]["state"]) == [0, 1]  # integer keys
    models[1].load_state_dict(saved["model"])
    adams[1].load_state_dict(saved["adam"])
    for m, a in zip(models, adams, strict=True):
        step(m, a)
    assert torch.equal(models[0].weight, models[1].weight)


def test_random_states_come_back(tmp_path):
    rng = np.random.default_rng(3)
    rng.random(5)
    save_tree(tmp_path / "a", {"rng": rng.bit_generator.state, "torch": torch.get_rng_state()})
    expected = (rng.random(), torch.rand(3))
    saved = load_tree(tmp_path / "a")
    other = np.random.default_rng(0)
    other.bit_generator.state = saved["rng"]
    torch.set_rng_state(saved["torch"])
    assert other.random() == expected[0]
    assert torch.equal(torch.rand(3), expected[1])


def test_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    save_tree(path, {"n": 1})

    def torn(tensors, name, metadata):
        with open(name, "wb") as file:
            file.write(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", torn)
    with pytest.raises(KeyboardInterrupt):
        save_tree(path, {"n": 2})
    assert load_tree(path) == {"n": 1}
    monkeypatch.undo()
    save_tree(path, {"n": 3})
    assert load_tree(path) == {"n": 3}


def test_a_reader_keeps_the_whole_old_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save_tree(path, {"n": 1})
    whole = path.read_bytes()
    with path.open("rb") as reader:
        save_tree(path, {"n": 2})
        assert reader.read() == whole  # replaced by a rename, not written over
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


WRITER = """
import sys, torch
from pathlib import Path
from edp_robot.training.checkpoint import save_tree
for i in range(10**6):
    save_tree(Path(sys.argv[1]), {"i": i, "x": torch.full((500_000,), float(i))})
    print(i, flush=True)
"""


def test_killed_writer_leaves_a_whole_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        time.sleep(0.011)
        os.kill(process.pid, signal.SIGKILL)
    saved = load_tree(path)
    assert saved["i"] >= 2
    assert (saved["x"] == saved["i"]).all()


def test_no_checkpoint_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*edp pretrain"):
        load_tree(tmp_path / "a")


def foreign(path):
    save_file({"x": torch.zeros(2)}, path, metadata={"format": "pt"})


def no_metadata(path):
    save_file({"x": torch.zeros(2)}, path)


def newer(path):
    save_file({"x": torch.zeros(2)}, path, metadata={"format": "2", "tree": "{}"})


def garbage(path):
    path.write_bytes(b"\x80\x04not ours" * 100)


def empty(path):
    path.write_bytes(b"")


def torn(path):
    save_tree(path, TREE)
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize("write", [foreign, no_metadata, newer, garbage, empty, torn])
def test_foreign_checkpoint_is_refused(tmp_path, write):
    path = tmp_path / "checkpoint.safetensors"
    write(path)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors"):
        load_tree(path)
