import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(?:#[^)]*)?\)")
MAKE = re.compile(r"(?:^|`)make ([a-z][a-z-]*)", re.M)


def broken_links(text: str, folder: Path) -> list[str]:
    return [link for link in LINK.findall(text) if not (folder / link).exists()]


def unknown_targets(text: str, makefile: str) -> set[str]:
    return set(MAKE.findall(text)) - set(re.findall(r"^([a-z-]+):", makefile, re.M))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_documents_point_at_what_exists(path):
    text = path.read_text()
    assert broken_links(text, path.parent) == []
    assert unknown_targets(text, (ROOT / "Makefile").read_text()) == set()


def test_the_checks_can_fail():
    assert broken_links("[a](no/such.md#part), [b](https://x.org), [c](pyproject.toml)", ROOT) == [
        "no/such.md"
    ]
    assert unknown_targets("run\nmake fly\nor `make test`", "test: x\n") == {"fly"}
