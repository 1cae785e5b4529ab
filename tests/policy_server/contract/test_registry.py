import sys
import textwrap

import pytest

from policy_server.contract.registry import Registry, UnknownName, import_attribute


@pytest.fixture
def registry():
    parts = Registry("part")

    @parts.register("round")
    class Round:
        pass

    return parts


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [n for n in sys.modules if n.startswith("mine_")]:
        del sys.modules[name]


def test_a_registered_name_gives_its_part(registry):
    assert registry.get("round").__name__ == "Round"
    assert registry.names() == ("round",)


def test_an_unknown_name_lists_those_that_exist(registry):
    with pytest.raises(UnknownName, match=r"no part 'rond'\. Did you mean 'round'\? There are: round"):
        registry.get("rond")


def test_a_path_gives_the_attribute_of_a_module_in_the_current_folder(registry, folder):
    (folder / "mine_a.py").write_text("class Part: size = 3")
    part = registry.get("mine_a:Part")
    assert part.size == 3
    assert registry.name_of(part) == "mine_a:Part"


def test_a_path_from_a_foreign_file_is_not_imported(registry, folder):
    (folder / "mine_b.py").write_text("raise SystemExit('imported')")
    with pytest.raises(UnknownName):
        registry.get("mine_b:Part", may_import=False)


def test_a_missing_attribute_is_named_with_what_is_there(folder):
    (folder / "mine_c.py").write_text("class Part: pass")
    with pytest.raises(ImportError, match="has no 'Prat'; it has: Part"):
        import_attribute("mine_c:Prat")


def test_a_file_dropped_into_the_package_is_found_without_being_named(folder, monkeypatch):
    package = folder / "mine_d"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from policy_server.contract.registry import Registry\nPARTS = Registry('part', package='mine_d')"
    )
    (package / "square.py").write_text(
        textwrap.dedent("""
        from mine_d import PARTS

        @PARTS.register("square")
        def square(): pass
        """)
    )
    monkeypatch.syspath_prepend(folder)
    from mine_d import PARTS  # type: ignore[import-not-found]

    assert PARTS.names() == ("square",)
    assert PARTS.get("square").__module__ == "mine_d.square"


def test_two_parts_of_one_name_are_refused(registry):
    with pytest.raises(ValueError, match="two parts are called 'round'"):
        registry.register("round")(object)


@pytest.mark.parametrize("name", ["a b:c", "os.system", "../x:y", "a:b:c", "", ":x", "x:"])
def test_what_is_no_path_is_an_unknown_name(registry, name):
    with pytest.raises(UnknownName):
        registry.get(name)
