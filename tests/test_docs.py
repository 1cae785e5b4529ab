"""Every command and code block of the documents runs, and every link leads somewhere."""

import re
import shutil

import pytest
from filelock import FileLock
from support.documents import ROOT, Block, Reader, blocks, commands, edp_command, missing, run_edp
from support.own_folder import at

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
WITH_BLOCKS = [path for path in DOCUMENTS if blocks(path.read_text())]
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(?:#[^)]*)?\)")
MAKE = re.compile(r"(?:^|`)make ([a-z][a-z-]*)", re.M)
EXAMPLES = sorted((ROOT / "examples" / "extend").glob("*.py"))
EXAMPLE_ROW = re.compile(r"^\| `(examples/extend/\w+\.py)`[^|]*\| (\d+) \|", re.M)
NOT_RUN = {"examples/cpp_client/README.md": 2}  # Blocks marked as not run, with their reason.
WORKSHOP = """
pretrain --task arm --out runs/arm
finetune --task arm-press --from runs/arm --out runs/press
distill --from runs/press --out runs/student
export --from runs/student --out runs/bundle
bench latency runs/bundle --json a.json
bench latency runs/bundle --json b.json
control --bundle runs/bundle --robot sim:arm-press --record recorded.npz
keys new keys --name robot-1
"""


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    """A folder with a small run of every kind, made once for all documents and processes."""
    shared = tmp_path_factory.getbasetemp()
    if shared.name.startswith("popen-"):  # one process of several
        shared = shared.parent
    folder = shared / "workshop"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            make_workshop(folder)
    return folder


def make_workshop(folder):
    unfinished = folder.with_name("unfinished")
    unfinished.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(unfinished)
        for words in commands(WORKSHOP):
            status, printed = run_edp(*edp_command(words))
            assert status == 0, printed
    shutil.copytree(unfinished / "runs" / "bundle", unfinished / "bundle")
    unfinished.rename(folder)


@pytest.fixture
def desk(workshop, tmp_path):
    """The current folder: a copy of the workshop. Its modules are forgotten at the end."""
    folder = tmp_path / "desk"
    shutil.copytree(workshop, folder)
    with at(folder):
        yield folder


@pytest.mark.parametrize("path", WITH_BLOCKS, ids=name_of)
def test_every_block_of_a_document_runs(path, desk):
    reader = Reader(path)
    reader.read()
    assert len(reader.not_run) == NOT_RUN.get(name_of(path), 0)


def test_exceptions_are_still_needed():
    assert set(NOT_RUN) <= {name_of(path) for path in WITH_BLOCKS}


def broken_links(text, folder):
    return [link for link in LINK.findall(text) if not (folder / link).exists()]


def unknown_targets(text, makefile):
    return set(MAKE.findall(text)) - set(re.findall(r"^([a-z-]+):", makefile, re.M))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_documents_point_at_what_exists(path):
    text = path.read_text()
    assert broken_links(text, path.parent) == []
    assert unknown_targets(text, (ROOT / "Makefile").read_text()) == set()


def test_examples_are_as_long_as_documents_say():
    """A row begins with the example and has its lines in the next cell."""
    said = {
        name: int(n_lines)
        for path in DOCUMENTS
        for name, n_lines in EXAMPLE_ROW.findall(path.read_text())
    }
    files = {name_of(path): len(path.read_text().splitlines()) for path in EXAMPLES}
    assert said == files
    assert max(files.values()) < 100


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) < 700


def test_broken_links_and_targets_are_found():
    links = "[a](no/such.md#part), [b](https://x.org), [c](pyproject.toml)"
    assert broken_links(links, ROOT) == ["no/such.md"]
    assert unknown_targets("run\nmake fly\nor `make test`", "test: x\n") == {"fly"}


DOCUMENT = """Text.
<!-- not run: it needs a robot -->
```sh
edp fly
```
```sh
edp tasks   # a comment
edp bench latency bundle \\
    --n 20000
```
  ```python
  x = 1
  ```
"""


def test_blocks_are_found_in_order():
    robot, shell, python = blocks(DOCUMENT)
    assert robot == Block("sh", "edp fly\n", 3, "it needs a robot")
    assert commands(shell.text) == [
        ["edp", "tasks"],
        ["edp", "bench", "latency", "bundle", "--n", "20000"],
    ]
    assert python == Block("python", "x = 1\n", 11, "")


def test_a_block_may_be_a_file():
    (block,) = blocks("```python\n# parts/my_robot.py\nx = 1\n```\n")
    assert block.file_name == "parts/my_robot.py"
    (block,) = blocks("```python\n# A robot of my own\nx = 1\n```\n")
    assert block.file_name == ""


@pytest.mark.parametrize(
    ("typed", "run"),
    [
        (
            "pretrain --task arm --preset paper --env-steps 9000",
            ("pretrain", ["--task", "arm", "--preset", "smoke"]),
        ),
        ("bench --compare a.json b.json", ("bench compare", ["a.json", "b.json"])),
        ("top", ("top", ["--once"])),
        (
            "control --seconds 20 --robot sim:arm",
            ("control", ["--robot", "sim:arm", "--seconds", "1"]),
        ),
    ],
)
def test_commands_are_cut_short(typed, run):
    assert edp_command(typed.split()) == run


@pytest.mark.parametrize(
    "text",
    [
        "```sh\nedp fly\n```\n",
        "```sh\nedp tasks --no-such-option\n```\n",
        "```sh\nedp study exploration --no-such-option\n```\n",
        "```sh\nedp export --from no/such/run --out a\n```\n",
        "```sh\nmake fly\n```\n",
        "```sh\npip install 'edp-robot[fly]'\n```\n",
        "```sh\npython benchmarks/no_such_file.py\n```\n",
        "```sh\nls no-such-file\n```\n",
        "```python\n1 / 0\n```\n",
        "```json\n{a: 1}\n```\n",
        "```\nedp tasks\n```\n",
    ],
)
def test_what_does_not_run_is_found(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(AssertionError):
        Reader(tmp_path / "page.md").read()


def test_code_sees_the_blocks_before_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    text = "```python\n# door.py\nA = 3\n```\n```python\nimport door\nx = door.A\n```\n"
    (tmp_path / "page.md").write_text(f"{text}```python\ny = x + 1\n```\n")
    reader = Reader(tmp_path / "page.md")
    reader.read()
    assert reader.namespace["y"] == 4


def test_things_that_are_only_checked():
    assert missing(["make", "test", "WORKERS=0"]) == ""
    assert missing(["pip", "install", "edp-robot[serve,train]"]) == ""
    assert missing(["docker", "run", "anything"]) == ""
