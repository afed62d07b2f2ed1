"""Where tables lie, and their YAML read so that a mistake is told by its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from retrieval_kd.contracts import UserError
from retrieval_kd.evaluation.table_spec import TableSpec, read_spec
from retrieval_kd.pipeline.conf_tree import did_you_mean


def find(name: str) -> Path:
    """The table.yaml that a name stands for."""
    root = Path(__file__).parents[2] / "experiments"
    places = [
        Path(name),
        Path(name) / "table.yaml",
        Path("experiments") / name / "table.yaml",
        root / name / "table.yaml",
    ]
    for place in places:
        if place.is_file():
            return place
    known = sorted({path.parent.name for base in (Path("experiments"), root) for path in base.glob("*/table.yaml")})
    raise UserError(f"no table {name!r}{did_you_mean(name, known)}; there are: {', '.join(known) or 'none here'}")


def read_table(path: Path) -> TableSpec:
    """A table.yaml, with every mistake told by its place."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_NoRepetition)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        told = " ".join(str(error).split()).replace('in "<unicode string>", ', "")
        raise UserError(f"{path}: {told}") from error
    return read_spec(content, str(path))


class _NoRepetition(yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which a key that stands twice is a mistake: two rows of one name would hide each other."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        for place, (key, (key_node, _)) in enumerate(zip(keys, node.value, strict=True)):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
        return super().construct_mapping(node, deep)
