import importlib
import sys

import pytest

SOURCE = """
from typing import TYPE_CHECKING

from policy_server.contract.doors.lazy import lazy_names

if TYPE_CHECKING:
    from json import dumps
    from math import sqrt, tan

__all__ = ["dumps", "sqrt"]
__getattr__, __dir__ = lazy_names(__name__)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose public names are `sqrt` of math and `dumps` of json."""
    (tmp_path / "lazy_example.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("lazy_example")
    del sys.modules["lazy_example"]


def test_a_name_is_loaded_once_and_then_kept(package):
    assert "sqrt" not in vars(package)
    assert package.sqrt(9) == 3
    assert "sqrt" in vars(package) and "dumps" not in vars(package)


def test_dir_lists_the_names_that_are_not_loaded_yet(package):
    assert {"sqrt", "dumps", "__name__"} <= set(dir(package))


@pytest.mark.parametrize("name", ["cosine", "tan"])
def test_a_name_that_is_not_public_is_an_attribute_error(package, name):
    with pytest.raises(AttributeError, match=f"'lazy_example' has no attribute '{name}'"):
        getattr(package, name)
