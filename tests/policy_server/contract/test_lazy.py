import sys
import types

import pytest

from policy_server.contract.lazy import lazy_names


@pytest.fixture
def package(monkeypatch):
    """A package `lazy_example` whose public names are `sqrt` of math and `dumps` of json."""
    made = types.ModuleType("lazy_example")
    table = {"math": ("sqrt",), "json": ("dumps",)}
    made.__getattr__, made.__dir__ = lazy_names("lazy_example", table)
    monkeypatch.setitem(sys.modules, "lazy_example", made)
    return made


def test_a_name_is_loaded_once_and_then_kept(package):
    assert "sqrt" not in vars(package)
    assert package.sqrt(9) == 3
    assert "sqrt" in vars(package) and "dumps" not in vars(package)


def test_dir_lists_the_names_that_are_not_loaded_yet(package):
    assert {"sqrt", "dumps", "__name__"} <= set(dir(package))


def test_an_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match="'lazy_example' has no attribute 'cosine'"):
        _ = package.cosine
