"""What to say of a name that a list does not have."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


def nearest_of(name: str, known: Sequence[str], whose: str) -> str:
    """The nearest name and the list."""
    near = get_close_matches(str(name).lower(), known, 1, 0.5)
    meant = f" did you mean {near[0]}?" if near else ""
    return f"{whose} has no such set;{meant} There are {', '.join(known)}"
