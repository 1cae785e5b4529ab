"""Checks that the parts of a bundle share."""

from __future__ import annotations

from typing import Any

from policy_server.contract.errors import BundleError


def require(condition: bool, message: str) -> None:
    """Raises BundleError with `message` unless `condition` holds."""
    if not condition:
        raise BundleError(message)


def is_int(value: Any) -> bool:
    """Returns whether `value` is a whole number; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Returns whether `value` is an int or a float; True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
