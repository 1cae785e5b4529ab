"""Types of options that several commands share."""

from typing import Literal

import tyro

FROM = tyro.conf.arg(
    name="from"
)  # `from` is a keyword in Python, so no parameter can have this name
SET = tyro.conf.arg(name="set")  # `set` is a builtin
Preset = Literal["smoke", "demo", "paper"]
