"""What else lies in a bundle's folder, and what is never deleted."""

import json
import os
import shutil

import pytest

from policy_server.contract import bundle as bundles
from policy_server.contract.bundle import Bundle, extend
from policy_server.contract.disk import files
from policy_server.contract.errors import BundleError

GUESTS = ("README.md", ".gitattributes", ".git/HEAD", ".cache/huggingface/x.metadata")
INT8 = {bundles.graph_name("int8"): b"graph"}


@pytest.fixture
def bundle(tiny, tmp_path):
    return tiny.save(tmp_path / "bundle")


def add_guests(path):
    for guest in GUESTS:
        (path / guest).parent.mkdir(parents=True, exist_ok=True)
        (path / guest).write_text("years of work")


def snapshot(path):
    """Every file below a folder, links as links."""
    return {
        str(file.relative_to(path)): file.readlink() if file.is_symlink() else file.read_bytes()
        for file in path.rglob("*")
        if file.is_symlink() or file.is_file()
    }


def in_hugging_face_cache(bundle):
    """The bundle as `huggingface_hub` keeps it: a snapshot of links to blobs."""
    blobs = bundle.path.parent / "models--x" / "blobs"
    revision = bundle.path.parent / "models--x" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    revision.mkdir(parents=True)
    for i, file in enumerate(sorted(bundle.path.iterdir())):
        shutil.copy(file, blobs / f"blob{i}")
        (revision / file.name).symlink_to(f"../../blobs/blob{i}")
    return revision


def in_config_map(folder, *versions):
    """The bundles as versions of a Kubernetes configMap; returns a function that switches."""
    folder.mkdir()
    for i, version in enumerate(versions):
        shutil.copytree(version, folder / f"..2026_{i}")

    def switch(i):
        (folder / "..data_tmp").symlink_to(f"..2026_{i}")
        (folder / "..data_tmp").replace(folder / "..data")

    switch(0)
    for file in versions[0].iterdir():
        (folder / file.name).symlink_to(f"..data/{file.name}")
    return switch


def test_guests_are_ignored_and_survive_an_extension(bundle):
    add_guests(bundle.path)
    before = snapshot(bundle.path)
    more = extend(Bundle.load(bundle.path), INT8, {"int8": {"max_abs_error": 0.1}})
    assert more.precisions == ("fp32", "int8") and more.read("policy-int8.onnx") == b"graph"
    after = snapshot(bundle.path)
    del after["policy-int8.onnx"]
    assert after.pop("manifest.json") != before.pop("manifest.json")
    assert after == before


def test_a_bundle_in_a_hugging_face_cache_loads_and_is_not_written_into(bundle):
    cache = in_hugging_face_cache(bundle)
    before = snapshot(cache.parents[1])
    loaded = Bundle.load(cache)
    assert loaded.hash == bundle.hash
    with pytest.raises(BundleError, match=r"policy.onnx are links.*copy it first: cp -rL"):
        extend(loaded, INT8, {})
    assert snapshot(cache.parents[1]) == before


def test_a_folder_that_is_a_link_is_extended_where_it_is(bundle):
    link = bundle.path.with_name("current")
    link.symlink_to("bundle")
    extend(Bundle.load(link), INT8, {})
    assert link.is_symlink() and Bundle.load(bundle.path).precisions == ("fp32", "int8")


def test_a_config_map_that_changes_while_it_is_read_is_read_again(tiny, tmp_path, monkeypatch):
    """The switch comes between manifest.json and the files: only a second reading fits."""
    old = tiny.save(tmp_path / "old").path
    new = tiny.save(tmp_path / "new", name="new", golden=tiny.golden(7)).path
    switch = in_config_map(tmp_path / "map", old, new)
    read = bundles.read_files

    def switched(path, raw):
        monkeypatch.setattr(bundles, "read_files", read)
        switch(1)
        shutil.rmtree(path / "..2026_0")
        return read(path, raw)

    monkeypatch.setattr(bundles, "read_files", switched)
    loaded = Bundle.load(tmp_path / "map")
    assert loaded.manifest.name == "new" and len(loaded.golden()["obs"]) == 7


def test_a_loaded_bundle_stays_as_it_was(tiny, tmp_path):
    """A backend reads the graph after the switch: it gets the one that was checked."""
    old = tiny.save(tmp_path / "old").path
    new = tiny.save(tmp_path / "new", onnx_bytes=tiny.onnx_bytes(tiny.W + 1)).path
    switch = in_config_map(tmp_path / "map", old, new)
    loaded = Bundle.load(tmp_path / "map")
    switch(1)
    assert loaded.read("policy.onnx") == tiny.onnx_bytes()
    assert Bundle.load(tmp_path / "map").read("policy.onnx") != tiny.onnx_bytes()
    with pytest.raises(BundleError, match="are links"):
        extend(loaded, INT8, {})


@pytest.mark.parametrize("what", ["nowhere", "folder"])
def test_a_listed_file_that_is_none_is_refused(bundle, what):
    (bundle.path / "policy.onnx").unlink()
    if what == "folder":
        (bundle.path / "policy.onnx").mkdir()
    else:
        (bundle.path / "policy.onnx").symlink_to("../blobs/gone")
    with pytest.raises(BundleError, match=r"a link leads nowhere|is a folder or a device"):
        Bundle.load(bundle.path)


def test_a_git_lfs_pointer_is_named(bundle):
    (bundle.path / "policy.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid x")
    with pytest.raises(BundleError, match="fetch it with `git lfs pull`"):
        Bundle.load(bundle.path)


def _foreign(path):
    path.mkdir()
    (path / "manifest.json").write_text('{"name": "a browser extension"}')
    (path / ".git").mkdir()


def _guests(path):
    (path / "README.md").write_text("mine")


def _listed_folder(path):
    raw = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(
        json.dumps({**raw, "files": {**raw["files"], "data": "0" * 64}})
    )
    (path / "data").mkdir()


def _linked(path):
    (path / "golden.npz").rename(path.with_name("elsewhere"))
    (path / "golden.npz").symlink_to("../elsewhere")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_guests, r"holds README.md, which no export made: nothing was replaced"),
        (_listed_folder, r"holds data, which"),
        (_linked, r"holds golden.npz, which"),
    ],
)
def test_a_bundle_with_something_beside_is_not_replaced(tiny, bundle, make, message):
    make(bundle.path)
    before = snapshot(bundle.path.parent)
    with pytest.raises(BundleError, match=message):
        tiny.save(bundle.path, name="second")
    assert snapshot(bundle.path.parent) == before


def test_what_is_no_bundle_is_not_replaced(tiny, tmp_path, monkeypatch):
    """A foreign manifest, any files, a file, a link, a home folder."""
    _foreign(tmp_path / "foreign")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("home")
    before = snapshot(tmp_path)
    for name, message in (
        ("foreign", r"foreign holds .git, manifest.json and is not a bundle \(schema version None"),
        ("home", r"holds thesis.tex and is not a bundle \(no manifest.json"),
        ("file", r"file is a file"),
        ("link", r"link is a link to home"),
        ("file/below", r"not written: .*file"),
    ):
        with pytest.raises(BundleError, match=message):
            tiny.save(tmp_path / name)
    monkeypatch.chdir(tmp_path / "home")
    with pytest.raises(BundleError, match=r"holds thesis.tex"):
        tiny.save(".")
    assert snapshot(tmp_path) == before


def test_the_current_folder_takes_a_bundle_and_is_not_pulled_away(tiny, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    tiny.save(".")
    assert Bundle.load(tmp_path / "here").manifest.name == "tiny"
    with pytest.raises(BundleError, match="is the current folder"):
        tiny.save("../here", name="second")
    assert Bundle.load(".").manifest.name == "tiny"
    assert os.listdir(tmp_path) == ["here"]


def test_missing_parents_are_made(tiny, tmp_path):
    tiny.save(tmp_path / "a" / "b" / "c")
    assert Bundle.load(tmp_path / "a" / "b" / "c").manifest.name == "tiny"


class Killed(BaseException):
    """What a kill would do."""


@pytest.fixture(params=["exchange", "renames"])
def system(request, monkeypatch):
    """A system that exchanges folders at once, and one that cannot."""
    if request.param == "renames":

        class Without:
            def __init__(self, *args, **kwargs): ...

        monkeypatch.setattr(files.ctypes, "CDLL", Without)
    return request.param


def test_a_replacement_leaves_nothing_else(tiny, bundle, system):
    tiny.save(bundle.path, name="second")
    assert Bundle.load(bundle.path).manifest.name == "second"
    assert os.listdir(bundle.path.parent) == ["bundle"]


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_replacement_that_breaks_off_keeps_a_whole_bundle(tiny, bundle, monkeypatch, nth):
    """Without an exchange there are three renames; each of them fails once."""

    class Without:
        def __init__(self, *args, **kwargs): ...

    monkeypatch.setattr(files.ctypes, "CDLL", Without)
    rename = files.Path.rename
    calls = []

    def breaking(self, target):
        calls.append(target)
        if len(calls) == nth:
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(files.Path, "rename", breaking)
    with pytest.raises(Killed):
        tiny.save(bundle.path, name="second")
    monkeypatch.undo()
    assert Bundle.load(bundle.path).manifest.name == ("second" if nth == 3 else "tiny")


def test_a_guest_that_comes_during_the_replacement_is_kept(tiny, bundle, monkeypatch, system):
    exchange = files._exchange

    def late(new, path):
        (path / "notes.txt").write_text("years")
        exchange(new, path)

    monkeypatch.setattr(files, "_exchange", late)
    with pytest.raises(
        BundleError, match=r"notes.txt came into .* meanwhile; they are in"
    ) as raised:
        tiny.save(bundle.path, name="second")
    kept = str(raised.value).split("they are in ")[1]
    assert (files.Path(kept) / "notes.txt").read_text() == "years"
    assert Bundle.load(bundle.path).manifest.name == "second"


@pytest.mark.parametrize("nth", [0, 1, 2])
def test_an_extension_that_breaks_off_leaves_a_whole_bundle(tiny, bundle, monkeypatch, nth):
    """An older int8 graph is replaced: manifest without it, the graph, manifest with it."""
    old = extend(bundle, INT8, {})
    write = bundles.write_atomic
    left = iter(range(nth))

    def breaking(path, content):
        next(left)
        write(path, content)

    monkeypatch.setattr(bundles, "write_atomic", breaking)
    with pytest.raises(StopIteration):
        extend(old, {bundles.graph_name("int8"): b"better"}, {})
    expected = ("fp32", "int8") if nth == 0 else ("fp32",)
    assert Bundle.load(bundle.path).precisions == expected


def test_a_bundle_that_changed_meanwhile_is_not_extended(tiny, bundle):
    tiny.save(bundle.path, name="second")
    with pytest.raises(BundleError, match="has changed since it was read"):
        extend(bundle, INT8, {})
