import importlib
import sys

import pytest

from policy_server.contract.doors.registries import Registry, UnknownName, import_attribute


@pytest.fixture
def registry():
    """A registry of one part, "round"."""
    parts = Registry("part")

    @parts.register("round")
    class Round:
        pass

    return parts


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder. Modules in it are called mine_*."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [n for n in sys.modules if n.startswith("mine_")]:
        del sys.modules[name]


def test_a_registered_name_gives_its_part(registry):
    assert registry.get("round").__name__ == "Round"
    assert registry.names() == ("round",)


def test_an_unknown_name_lists_those_that_exist(registry):
    message = r"no part 'rond'\. Did you mean 'round'\? There are: round"
    with pytest.raises(UnknownName, match=message):
        registry.get("rond")


def test_a_path_gives_the_attribute_of_a_module_in_the_current_folder(registry, folder):
    (folder / "mine_a.py").write_text("class Part: size = 3")
    part = registry.get("mine_a:Part")
    assert part.size == 3


def test_a_path_from_a_foreign_file_is_not_imported(registry, folder):
    (folder / "mine_b.py").write_text("raise SystemExit('imported')")
    with pytest.raises(UnknownName):
        registry.get("mine_b:Part", may_import=False)


def test_a_missing_attribute_is_named_with_what_is_there(folder):
    (folder / "mine_c.py").write_text("class Part: pass")
    with pytest.raises(ImportError, match="has no 'Prat'; it has: Part"):
        import_attribute("mine_c:Prat")


PACKAGE = """
from policy_server.contract.doors.registries import Registry

PARTS = Registry("part", package=__name__)
"""
SQUARE = """
from {package} import PARTS

@PARTS.register("square")
def square(): pass
"""


def make_package(folder, monkeypatch, name, **modules):
    """Returns the registry of a new package with these modules."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(PACKAGE)
    for module, text in modules.items():
        (folder / name / f"{module}.py").write_text(text.format(package=name))
    monkeypatch.syspath_prepend(folder)
    return importlib.import_module(name).PARTS


def test_a_file_dropped_into_the_package_is_found_without_being_named(folder, monkeypatch):
    parts = make_package(folder, monkeypatch, "mine_d", square=SQUARE)
    assert parts.names() == ("square",)
    assert parts.get("square").__module__ == "mine_d.square"


def test_a_file_in_a_folder_of_the_package_is_found_too(folder, monkeypatch):
    parts = make_package(folder, monkeypatch, "mine_g", round=SQUARE.replace("square", "round"))
    (folder / "mine_g" / "corners").mkdir()
    (folder / "mine_g" / "corners" / "__init__.py").write_text("")
    (folder / "mine_g" / "corners" / "square.py").write_text(SQUARE.format(package="mine_g"))
    assert parts.names() == ("round", "square")


def test_a_module_of_the_package_that_fails_is_not_passed_over_the_second_time(folder, monkeypatch):
    parts = make_package(folder, monkeypatch, "mine_e", broken="import mine_absent", square=SQUARE)
    for _ in range(2):
        with pytest.raises(ImportError, match="mine_absent"):
            parts.names()


def test_an_installed_distribution_names_its_part_as_an_entry_point(folder, monkeypatch):
    (folder / "mine_f.py").write_text("class Part: size = 4")
    (folder / "mine-1.0.dist-info").mkdir()
    (folder / "mine-1.0.dist-info" / "METADATA").write_text("Name: mine\nVersion: 1.0\n")
    entry_points = folder / "mine-1.0.dist-info" / "entry_points.txt"
    entry_points.write_text("[mine.parts]\nfour = mine_f:Part\n")
    monkeypatch.syspath_prepend(folder)
    parts = Registry("part", group="mine.parts")
    assert parts.names() == ("four",)
    assert parts.get("four", may_import=False).size == 4


def test_two_parts_of_one_name_are_refused(registry):
    with pytest.raises(ValueError, match="two parts are called 'round'"):
        registry.register("round")(object)


@pytest.mark.parametrize("name", ["a b:c", "os.system", "../x:y", "a:b:c", "", ":x", "x:"])
def test_what_is_no_path_is_an_unknown_name(registry, name):
    with pytest.raises(UnknownName):
        registry.get(name)


def test_a_missing_module_is_an_unknown_name_and_a_missing_import_is_not(registry, folder):
    with pytest.raises(UnknownName, match=r"No module named 'mine_f' in .*There are: round"):
        registry.get("mine_f:Part")
    (folder / "mine_g.py").write_text("import mine_h")
    with pytest.raises(ModuleNotFoundError, match="mine_h"):
        registry.get("mine_g:Part")


def test_an_attribute_of_another_kind_is_refused_before_it_is_called(folder):
    (folder / "mine_e.py").write_text("class Part: size = 3\nclass Other: pass\ndef call(): pass")
    base = import_attribute("mine_e:Part")
    parts = Registry("part", base=base)
    assert parts.get("mine_e:Part") is base
    for name in ("mine_e:Other", "mine_e:call", "os:system"):
        with pytest.raises(ValueError, match=f"part '{name}' is .*; expected a class like Part"):
            parts.get(name)
