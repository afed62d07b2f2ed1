"""Comparing output folders and run files: the numbers of the tests, and what cannot be compared."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval_kd.cli.compare import read, run
from retrieval_kd.contracts import UserError
from retrieval_kd.evaluation.significance import compare

BASELINE = {f"q{n}": 0.1 * (n % 5) for n in range(20)}
BETTER = {query: value + 0.05 + 0.01 * (n % 3) for n, (query, value) in enumerate(BASELINE.items())}


def folder(path, values, collection="docs", measure="ndcg@10"):
    path.mkdir()
    rows = [
        {"collection": collection, "split": "test", "query_id": query, "measure": measure, "value": value}
        for query, value in values.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows), path / "per_query.parquet")
    return str(path)


def trec(path, first):
    """Ten queries; the one relevant passage stands first for ``first`` of them, else second."""
    lines = []
    for n in range(10):
        order = ["right", "wrong"] if n < first else ["wrong", "right"]
        lines += [f"q{n} Q0 {passage} {rank} {3 - rank} tag\n" for rank, passage in enumerate(order, 1)]
    path.write_text("".join(lines))
    return str(path)


@pytest.fixture
def qrels(tmp_path):
    (tmp_path / "qrels.txt").write_text("".join(f"q{n} 0 right 1\n" for n in range(10)))
    return f"qrels={tmp_path / 'qrels.txt'}"


def test_folders(tmp_path, capsys):
    same = folder(tmp_path / "same", BASELINE)
    assert run([folder(tmp_path / "first", BASELINE), folder(tmp_path / "better", BETTER), same]) == 0
    title, head, first, better, unchanged, about = capsys.readouterr().out.splitlines()
    expected = compare(BASELINE, {"better": BETTER, "same": BASELINE})[0]
    assert title == "docs/test, 20 queries, randomisation test"
    assert head.split()[:3] == ["system", "ndcg@10", "difference"]
    assert first.split() == ["first", "(baseline)", f"{sum(BASELINE.values()) / 20:.4f}"]
    assert better.split() == [
        "better",
        f"{expected.means[0]:.4f}",
        f"{expected.difference:+.4f}",
        f"{expected.interval[0]:+.4f}",
        "…",
        f"{expected.interval[1]:+.4f}",
        f"{expected.p:.4f}" if expected.p >= 1e-4 else "<0.0001",
        f"{expected.p_corrected:.4f}",
        f"{expected.effect_size:+.2f}",
        "20/0/0",
        f"{expected.detectable:.4f}",
    ]
    assert unchanged.split()[-5:] == ["1.0000", "1.0000", "+0.00", "0/20/0", "0.0000"]
    assert about == "detectable: the smallest true difference that these queries would show in 80% of experiments"


def test_run_files_against_judgements(tmp_path, qrels, capsys, monkeypatch):
    pytest.importorskip("ranx")
    monkeypatch.chdir(tmp_path)
    files = [trec(tmp_path / "a.trec", 2), trec(tmp_path / "b.trec", 8)]
    assert run([*files, qrels, "measure=mrr@10", "test=t"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "judged queries, 10 queries, t test"
    assert lines[2].split()[-1] == "0.6000"  # two first places, eight second ones
    assert lines[3].split()[1:3] == ["0.9000", "+0.3000"]
    assert lines[3].split()[-2] == "6/4/0"


def test_a_file_beside_a_folder(tmp_path, qrels, capsys, monkeypatch):
    pytest.importorskip("ranx")
    monkeypatch.chdir(tmp_path)
    own = folder(tmp_path / "own", {f"q{n}": 1.0 if n < 9 else 0.5 for n in range(10)}, measure="mrr@10")
    assert run([trec(tmp_path / "a.trec", 2), own, qrels, "measure=mrr@10"]) == 0
    assert "7/3/0" in capsys.readouterr().out


def test_names_tell_systems_apart(tmp_path):
    paths = []
    for parent in ("x", "y"):
        (tmp_path / parent).mkdir()
        paths.append(trec(tmp_path / parent / "run.trec", 1))
    assert list(read(paths).systems) == paths
    with pytest.raises(UserError, match="named twice"):
        read([paths[0], paths[0]])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a"], ["two systems or more"]),
        (["a", "nowhere"], ["nowhere: no such output folder or run file"]),
        (["a", "other"], ["common collection", "a: docs/test", "other: theirs/test"]),
        (["a", "fewer"], ["not measured on the same queries"]),
        (["a", "empty"], ["empty has no per_query.parquet"]),
        (["a", "b", "measure=ndgc@10"], ["ndgc@10", "did you mean ndcg@10"]),
        (["a", "b", "measure=mrr@10"], ["holds no mrr@10"]),
        (["a", "b", "test=z"], ["test=z: randomisation or t would fit"]),
        (["run.trec", "run2.trec"], ["add qrels=FILE"]),
        (["run.trec", "run2.trec", "qrels=none.txt"], ["qrels=none.txt: no such file"]),
    ],
)
def test_what_cannot_be_compared(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "a", BASELINE)
    folder(tmp_path / "b", BETTER)
    folder(tmp_path / "other", BASELINE, collection="theirs")
    folder(tmp_path / "fewer", dict(list(BASELINE.items())[:10]))
    (tmp_path / "empty").mkdir()
    trec(tmp_path / "run.trec", 1)
    trec(tmp_path / "run2.trec", 2)
    with pytest.raises(UserError) as caught:
        run(arguments)
    assert [word for word in words if word not in str(caught.value)] == []
