"""What decides a step's artifact, apart from other artifacts: config values without those of speed, and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrieval_kd.data.files import file_digest, text_digest

# Keys that change how long a step takes, or what is printed, but not what it writes.
NO_RESULT = {
    "trainer": ("accelerator", "devices", "strategy", "workers", "log_every", "diagnose", "checkpoint_every"),
    "student": ("inference", "writer", "refit", "suits"),
    "negatives": ("per_query", "makes", "made"),  # what is found does not depend on what is made of it
    "made": ("per_query",),
    "evaluation": ("latency",),
}
SPEED = frozenset({"tokens_per_batch"})  # how many texts an encoder takes at a time, wherever it stands
NOTES = frozenset({"provenance", "score_kind", "white_box", "words"})  # what an option says of itself
# Raised when a step would write something else for the same config and inputs.
STEPS = ("index", "search", "encode", "weigh", "mine", "darken", "teach", "score", "label", "pair", "train", "time")
# pair: what its report counts; darken: titles are left alone; label: made passages go with their positives
VERSIONS = dict.fromkeys((*STEPS, "evaluate"), 1) | {"pair": 2, "darken": 2, "label": 2}
FILES = frozenset({"name", "path", "token_weights"})  # keys that may name a file or folder, whose content decides then
WEIGHTS = frozenset({".safetensors", ".json", ".txt", ".model", ".metadata"})  # of a folder, what a model is read from


def deciding(group: str, value: Any) -> Any:
    """The values of a group that decide what a step writes."""
    return _without_everywhere(_without(value, NO_RESULT.get(group, ())), SPEED | NOTES)


def named_files(value: Any, key: str = "") -> list[Path]:
    """Files and folders that are there under the names which a part of the config gives."""
    if isinstance(value, dict):
        return [path for name, inner in value.items() for path in named_files(inner, name)]
    named = key in FILES and isinstance(value, str) and Path(value).exists()
    return [Path(value)] if named else []


def path_key(place: Path, settings: str, cache: Path) -> str:
    """Digest of a file, or of a student's files; a hub name stands for itself."""
    if place.is_file():
        return text_digest("file", file_digest(place, cache))
    if not place.is_dir():
        return text_digest("model", str(place), settings)
    folder = model_folder(place)  # a run's manifest is not the model
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in WEIGHTS)
    named = (f"{path.relative_to(folder)}:{file_digest(path, cache)}" for path in files)
    return text_digest("model", settings, *named)


def model_folder(place: str | Path) -> Path:
    """A student's folder, which a run's folder holds as ``model``."""
    folder = Path(place)
    return folder / "model" if (folder / "model").is_dir() else folder


def _without(value: Any, names: tuple[str, ...]) -> Any:
    return {key: inner for key, inner in value.items() if key not in names} if isinstance(value, dict) else value


def _without_everywhere(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without_everywhere(inner, names) for key, inner in value.items() if key not in names}
    return value
