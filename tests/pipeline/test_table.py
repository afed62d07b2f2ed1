"""A table runs what is missing, says how rows stand to what was expected and to their controls, and repeats nothing."""

import json
import shlex
import shutil
import time
from pathlib import Path

import pytest
import yaml

from retrieval_kd.pipeline.table_files import read_table

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
CELL = "things/test ndcg@10"
MANIFEST = Path("manifest.json")


@pytest.fixture
def table(tmp_path, small):
    """Writes a table.yaml: BM25, the untrained student, and one that is trained by hard labels."""

    def write(**changes):
        content = {
            "title": "Three rows",
            "columns": [CELL, "things/test recall@100"],
            "seeds": {"quick": [1], "small": [1, 2]},
            "overrides": {"all": [*small, "teacher=pointwise", "scorer@teacher.scorer=bm25"]},
            "tolerances": {"near": 0.01},
            "rows": {
                "BM25": {"experiment": "bm25"},
                "untrained": {"experiment": "untrained", "control": "BM25"},
                "hard labels": {"experiment": "contrastive", "control": "untrained"},
            },
        }
        folder = tmp_path / "experiments" / "three"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.yaml").write_text(yaml.safe_dump(content | changes, sort_keys=False))
        return content

    return write


def read(tmp_path):
    found = json.loads((tmp_path / "outputs/tables/three/table.json").read_text())
    return found, {row["name"]: row for row in found["rows"]}


def rows_of(out):
    """What a dry run says of rows, without what it says of their steps and of all together."""
    return [line for line in out.partition("together")[0].splitlines() if not line.startswith(" ")]


def test_only_rows_and_columns_of_what_was_asked_for_are_shown(table, command, tmp_path):
    """Of another collection than the first column is about, and at a scale that has not every row.

    A measure that nothing computed keeps its column: it is a mistake, and must be seen.
    """
    rows = {"BM25": {"experiment": "bm25"}, "later": {"experiment": "untrained", "scales": ["small"]}}
    shown = [CELL, "things/test precision@3"]
    table(columns=["elsewhere/test ndcg@10", *shown], rows=rows)
    assert command("table", "three")[0] == 0
    found, _ = read(tmp_path)
    assert found["columns"] == shown
    assert [row["name"] for row in found["rows"]] == ["BM25"]


def test_rows_run_once_and_are_compared(table, command, written, tmp_path):
    table()
    code, out, errors = command("table", "three", "dry_run=true")
    assert (code, written) == (0, [])
    assert [line.partition(":")[0] for line in rows_of(out)] == ["BM25", "untrained", "hard labels"]
    assert "together, steps that rows share once: 0 teacher calls" in out
    assert not (tmp_path / "outputs").exists()

    code, out, errors = command("table", "three")
    assert code == 0
    assert not [line for line in errors if line.startswith("error")]
    assert [line.split("  ")[0] for line in out.splitlines()[:3]] == ["BM25", "untrained", "hard labels"]
    found, rows = read(tmp_path)
    assert found["queries"] == {"things/test": 8}
    assert list(rows) == ["BM25", "untrained", "hard labels"]
    for name, row in rows.items():
        metrics = tmp_path / "outputs/tables/three/quick" / name.replace(" ", "_") / "seed-1" / "metrics.json"
        measured = json.loads(metrics.read_text())["collections"]["things/test"]["measures"]
        assert row["cells"][CELL]["value"] == row["cells"][CELL]["seeds"][0] == measured["ndcg@10"]
        assert row["cells"][CELL]["status"] == ""
    assert rows["BM25"]["cells"][CELL]["against"] is None
    against = rows["untrained"]["cells"][CELL]["against"]
    assert against["row"] == "BM25"
    values = [rows[name]["cells"][CELL]["value"] for name in ("untrained", "BM25")]
    assert against["difference"] == pytest.approx(values[0] - values[1], abs=2e-6)
    assert against["interval"][0] <= against["difference"] <= against["interval"][1]
    assert rows["hard labels"]["cost"]["train_steps"] == 3
    assert "train_steps" not in rows["untrained"]["cost"]
    folder = tmp_path / "outputs/tables/three"
    for form in ("md", "tex", "html"):
        text = (folder / f"table.{form}").read_text()
        assert "hard labels" in text
        assert "retrieval-kd train scale=quick experiment=contrastive" in text
    assert "Commands" not in out
    least = rows["untrained"]["cells"][CELL]["against"]["detectable"]
    assert f"corrected for 2 comparisons): {least:.3f} to " in out or f" to {least:.3f}, by row" in out

    before, done = (tmp_path / "outputs/tables/three/table.json").read_bytes(), list(written)
    started = time.process_time()
    code, out, _ = command("table", "three")
    assert (code, written) == (0, done)
    assert time.process_time() - started < 3
    assert (tmp_path / "outputs/tables/three/table.json").read_bytes() == before
    assert out.count("hard labels") == 2
    _, out, _ = command("table", "three", "dry_run=true")
    assert [line.partition(": ")[2] for line in out.splitlines()] == ["done", "done", "done"]  # and no more
    table(seeds={"quick": [1, 2]})
    _, out, _ = command("table", "three", "dry_run=true")
    assert [line.partition(": ")[2] for line in rows_of(out)][:2] == ["done", "done"]  # a seed changes neither
    assert rows_of(out)[2] == "hard labels: to do: train, encode, search, evaluate"


def test_a_rows_command_makes_the_row(table, command, tmp_path):
    table()
    assert command("table", "three", "only=BM25")[0] == 0
    _, rows = read(tmp_path)
    (said,) = rows["BM25"]["commands"]
    place = tmp_path / "outputs/tables/three/quick/BM25/seed-1"
    before = json.loads((place / MANIFEST).read_text())["key"]
    shutil.rmtree(place)
    program, *arguments = shlex.split(said)
    assert program == "retrieval-kd"
    assert command(*arguments)[0] == 0
    assert json.loads((place / MANIFEST).read_text())["key"] == before
    _, out, _ = command("table", "three", "only=BM25", "dry_run=true")
    assert out == "BM25: done\n"


@pytest.mark.slow
def test_comparisons_are_corrected_over_the_table(table, command, tmp_path):
    from retrieval_kd.evaluation.per_query import read_per_query
    from retrieval_kd.evaluation.significance import corrected, paired

    table()
    command("table", "three")
    _, rows = read(tmp_path)
    values = {
        name: read_per_query(
            tmp_path / f"outputs/tables/three/quick/{name.replace(' ', '_')}/seed-1/per_query.parquet",
            "things",
            "test",
            "ndcg@10",
        )
        for name in rows
    }
    pairs = [("untrained", "BM25"), ("hard labels", "untrained")]
    family = [paired(values[one], values[other], (one, other)) for one, other in pairs]
    for (name, _), one, held in zip(pairs, family, corrected(family), strict=True):
        found = rows[name]["cells"][CELL]["against"]["p"]
        assert found == pytest.approx(held.p_corrected)
        assert found >= one.p
    alone = min(range(2), key=lambda place: family[place].p)
    assert rows[pairs[alone][0]]["cells"][CELL]["against"]["p"] == pytest.approx(min(1, 2 * family[alone].p))


@pytest.mark.slow
def test_only_some_rows(table, command, tmp_path):
    table()
    assert command("table", "three", "only=hard labels,BM25")[0] == 0
    _, rows = read(tmp_path)
    assert list(rows) == ["BM25", "hard labels"]
    assert rows["hard labels"]["cells"][CELL]["against"] is None  # its control did not run


@pytest.mark.slow
def test_expectations(table, command, tmp_path):
    content = table()
    command("table", "three")
    _, rows = read(tmp_path)
    shifts = {"BM25": 0.0, "untrained": 0.015, "hard labels": 0.05}
    for name, shift in shifts.items():
        value = rows[name]["cells"][CELL]["value"] + shift
        content["rows"][name]["expected"] = {"quick": {CELL: {"value": value, "tolerance": "near"}}}
    table(rows=content["rows"])
    code, _, _ = command("table", "three")
    found, rows = read(tmp_path)
    assert [rows[name]["cells"][CELL]["status"] for name in shifts] == ["OK", "OKish", "FAIL"]
    assert code == 1
    assert (
        command("table", "three", "only=BM25,untrained")[0] == 1
    )  # the row that fails is done, and stays in the table

    table(rows=content["rows"], data={"quick": {"things/test": "of another corpus"}})
    assert command("table", "three")[0] == 0
    _, rows = read(tmp_path)
    assert {row["cells"][CELL]["status"] for row in rows.values()} == {"other data"}
    table(rows=content["rows"], data={"quick": {"things/test": found["data"]["things/test"]}})
    assert command("table", "three")[0] == 1


@pytest.mark.slow
def test_seeds_are_averaged(table, command, tmp_path):
    table(seeds={"quick": [1, 2]})
    assert command("table", "three", "only=untrained,hard labels")[0] == 0
    _, rows = read(tmp_path)
    cell = rows["hard labels"]["cells"][CELL]
    assert len(cell["seeds"]) == 2
    assert cell["value"] == pytest.approx(sum(cell["seeds"]) / 2, abs=1e-6)
    assert cell["seeds"][0] != cell["seeds"][1]
    difference = cell["value"] - rows["untrained"]["cells"][CELL]["value"]
    assert cell["against"]["difference"] == pytest.approx(difference, abs=2e-6)


@pytest.mark.slow
def test_a_row_stays_until_its_new_results_are_complete(table, command, monkeypatch, tmp_path):
    from retrieval_kd.pipeline import run

    table()
    only = ("table", "three", "only=BM25")
    assert command(*only)[0] == 0
    place = tmp_path / "outputs/tables/three/quick/BM25/seed-1"

    def files():
        return {path.relative_to(place): path.read_bytes() for path in place.rglob("*") if path.is_file()}

    before = files()
    parts = {"join_per_query": KeyboardInterrupt(), "manifest": ValueError("a fault")}
    for part, fault in parts.items():  # in the middle of laying out, and at its end
        with monkeypatch.context() as broken:

            def fails(*_, fault=fault):
                raise fault

            broken.setattr(run, part, fails)
            if part == "manifest":
                with pytest.raises(ValueError, match="a fault"):
                    command(*only, "bm25.k1=0.5")
            else:
                assert command(*only, "bm25.k1=0.5")[0] == 130
        assert files() == before
        assert list(place.parent.iterdir()) == [place]
    assert command(*only, "bm25.k1=x")[0] == 2
    assert command(*only, "bm25.k1=0.5")[0] == 0
    after = files()
    assert after.keys() == before.keys()
    assert json.loads((place / "manifest.json").read_text())["key"] != json.loads(before[MANIFEST])["key"]
    assert after[MANIFEST] != before[MANIFEST]
    assert list(place.parent.iterdir()) == [place]


def refused(command, *arguments):
    code, out, errors = command("table", *arguments)
    assert (code, out, len(errors)) == (2, "", 1)
    return errors[0]


def test_bad_requests(table, command, written):
    table()
    assert "error: no table 'thre'; did you mean three?" in refused(command, "thre")
    line = refused(command, "three", "only=untraind")
    assert line.startswith("error: only=untraind: there is no such row; did you mean untrained?")
    assert "scale=huge: this table has quick, small" in refused(command, "three", "scale=huge")
    assert "dry_run=yes: it is true or false" in refused(command, "three", "dry_run=yes")
    assert "teraflops=fast: a number above 0" in refused(command, "three", "dry_run=true", "teraflops=fast")
    assert "trainer.epoch: there is no such key; did you mean trainer.epochs?" in refused(
        command, "three", "trainer.epoch=1"
    )
    assert "table needs a name" in refused(command)
    assert written == []


def test_bad_tables(table, command, tmp_path, written):
    """Every mistake is told before the first row runs."""
    path = tmp_path / "experiments" / "three" / "table.yaml"
    rows = table()["rows"]
    table(rows=rows | {"last": {"experiment": "plain_k"}})
    line = refused(command, "three")
    assert "rows.last: experiment=plain_k: experiment has the options" in line
    assert "did you mean plain_kl?" in line
    table(rows=rows | {"last": {"experiment": "plain_kl", "overrides": ["optimizer.lrr=1"]}})
    assert "rows.last: optimizer.lrr: there is no such key; did you mean optimizer.lr?" in refused(command, "three")
    table(rows=rows | {"last": {"experiment": "plain_kl", "control": "nobody"}})
    assert "rows.last.control: there is no row 'nobody'" in refused(command, "three")
    table(rows=rows | {"last": {"experiment": "contrastive", "overrides": ["objective.contrastive.temperature=0"]}})
    assert "rows.last: objective.contrastive.temperature must be > 0" in refused(command, "three")
    table()
    path.write_text(path.read_text() + "  BM25:\n    experiment: bm25\n")
    line = refused(command, "three")
    assert "the key 'BM25' stands twice" in line
    assert f"line {len(path.read_text().splitlines()) - 1}, column 3" in line
    path.write_bytes(b"rows: \xff\n")
    assert "table.yaml: " in refused(command, "three")
    assert written == []


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*/table.yaml")), ids=lambda path: path.parent.name)
def test_every_study_can_be_read(path):
    spec = read_table(path)
    assert all(one.value is None or one.value > 0 for cells in spec.references.values() for one in cells.values())
    assert {row.control for row in spec.rows} - {None} <= {row.name for row in spec.rows}
