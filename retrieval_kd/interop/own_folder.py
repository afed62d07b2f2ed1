"""Students that were trained here lie in folders with settings of our own."""

from __future__ import annotations

from pathlib import Path

SETTINGS = "retrieval_kd.json"


def own_folder(name: str) -> Path | None:
    """The folder that has them: the named one, or ``model/`` in a run's; None for folders of others."""
    return next((folder for folder in (Path(name) / "model", Path(name)) if (folder / SETTINGS).is_file()), None)
