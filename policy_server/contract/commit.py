"""Says which git commit this code is, and which versions of packages are installed."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path

UNKNOWN = "unknown"
_HERE = Path(__file__)


def source_commit(file: Path = _HERE) -> str:
    """Returns the commit of the checkout that holds `file`, plus "+" if a Python file differs.

    Returns "unknown" outside a checkout, for a file that is not under version control, and without
    git.

    Args:
        file: A source file. A package that is installed below some other checkout has no commit.
    """
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return UNKNOWN
    head = _git(file.parent, "rev-parse", "HEAD")
    if not head:
        return UNKNOWN
    # Results that were written since the commit are not code, so only Python files count.
    changes = _git(file.parent, "status", "--porcelain", "-uno", "--", ":(top)*.py")
    return f"{head}+" if changes else head


def installed_version(distribution: str) -> str | None:
    """Returns the version of an installed distribution, None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *args: str) -> str | None:
    """Returns what git prints, or None where it fails or is not installed."""
    command = ["git", "-C", str(folder), *args]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()
