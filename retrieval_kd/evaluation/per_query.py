"""Measures by query as a Parquet file: what a significance test between two finished runs needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrieval_kd.contracts import UserError
from retrieval_kd.data.files import atomic_file
from retrieval_kd.evaluation.means import weights
from retrieval_kd.evaluation.measures import Measured

SCHEMA = pa.schema(
    [
        ("collection", pa.string()),
        ("split", pa.string()),
        ("query_id", pa.string()),
        ("measure", pa.string()),
        ("value", pa.float64()),
    ]
)


def write_per_query(path: Path, measured: Mapping[tuple[str, str], Measured]) -> None:
    """Write what was measured by (collection, split)."""
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
        for (collection, split), result in measured.items():
            for name, values in result.values.items():
                same = [np.full(len(values), word, dtype=object) for word in (collection, split, name)]
                columns = [same[0], same[1], list(result.query_ids), same[2], values]
                writer.write_table(pa.table(columns, schema=SCHEMA))


def read_per_query(path: Path, collection: str, split: str, measure: str) -> dict[str, float]:
    """Values of one measure by query id."""
    if not path.is_file():
        raise UserError(f"{path}: there are no measures by query; run evaluate first")
    # Not ``read_table`` with filters, which first imports what reads whole folders, and pandas with it.
    table = pq.ParquetFile(path).read()
    for column, wanted in (("collection", collection), ("split", split), ("measure", measure)):
        table = table.filter(pc.equal(table[column], wanted))
    if not len(table):
        raise UserError(f"{path}: holds no {measure} of {collection}/{split}")
    return dict(zip(table["query_id"].to_pylist(), table["value"].to_pylist(), strict=True))


def join_per_query(
    parts: Mapping[tuple[str, str], Path],
    target: Path,
    means: Mapping[tuple[str, str], Sequence[tuple[str, str]]] | None = None,
) -> None:
    """One file of several, each under the (collection, split) that it is called here; without any, without lines.

    ``means`` are over collections, their parts in what is joined or in means before. Their queries are those of all
    parts, called ``COLLECTION:QUERY``, their values weighted so that each part counts the same.
    """
    tables: dict[tuple[str, str], pa.Table] = {}
    for names, part in parts.items():
        # Equal content may have been measured under another name.
        tables[names] = _named(pq.read_table(part), names)
    for names, of in (means or {}).items():
        tables[names] = _named(_weighted({part: tables[part] for part in of}), names)
    with atomic_file(target) as path:
        pq.write_table(pa.concat_tables([SCHEMA.empty_table(), *tables.values()]), path)


def _named(table: pa.Table, names: tuple[str, str]) -> pa.Table:
    for column, name in enumerate(names):
        table = table.set_column(column, SCHEMA.field(column), pa.repeat(pa.scalar(name), len(table)))
    return table


def _weighted(parts: Mapping[tuple[str, str], pa.Table]) -> pa.Table:
    """The measures that all parts have, weighted."""
    shared = set.intersection(*(set(table["measure"].to_pylist()) for table in parts.values()))
    sizes = [len(set(table["query_id"].to_pylist())) for table in parts.values()]
    found = []
    for ((collection, _), table), weight in zip(parts.items(), weights(sizes).tolist(), strict=True):
        kept = table.filter(pc.is_in(table["measure"], pa.array(sorted(shared), pa.string())))
        called = pc.binary_join_element_wise(collection, kept["query_id"], ":")
        kept = kept.set_column(2, SCHEMA.field(2), called)
        found.append(kept.set_column(4, SCHEMA.field(4), pc.multiply(kept["value"], weight)))
    return pa.concat_tables(found)
