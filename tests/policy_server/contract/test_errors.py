"""Texts from files, as a terminal shows them."""

import pytest

from policy_server.contract.errors import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("arm-press-student", "arm-press-student"),
        ("Gr\u00fc\u00dfer \u673a\u68b0\u81c2", "Gr\u00fc\u00dfer \u673a\u68b0\u81c2"),
        ("\x1b[31mred\x07\nserving all", r"\x1b[31mred\x07\nserving all"),
        ("a\r\tb\x7f\x9b", r"a\r\tb\x7f\x9b"),
        ("half \ud800", r"half \ud800"),
        ("turned \u202eback", r"turned \u202eback"),
        ("x" * 80, "x" * 80),
        ("x" * 5000, "x" * 77 + "..."),
        ("", ""),
    ],
)
def test_what_a_terminal_may_show(text, shown):
    assert printable(text) == shown
    assert len(printable(text)) <= 80
