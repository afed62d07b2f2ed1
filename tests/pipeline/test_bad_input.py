"""What a user gets wrong is told by the command line in one line, with code 2, and nothing is left half-written."""

import errno
import json
import os
import shutil

import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def folder(things, tmp_path):
    """A copy of the collection that may be spoilt."""
    copy = tmp_path / "mine"
    shutil.copytree(things, copy)
    return copy


@pytest.fixture
def refused(command, small, tmp_path):
    """Runs a verb with an empty store: the one line that it ends with."""
    store, out = tmp_path / "store", tmp_path / "out"

    def run(verb, *arguments):
        code, printed, lines = command(verb, *small, f"store={store}", f"output_dir={out}", *arguments)
        assert code == 2, lines
        assert printed == ""
        assert [line.startswith("error: ") for line in lines].index(True) == len(lines) - 1
        assert not any("Traceback" in line for line in lines)
        assert not out.exists()
        assert not [path for path in store.rglob(".*") if path.is_dir()]  # unfinished artifacts
        steps = [path for path in store.glob("*/*") if path.parent.name in ("mine", "score", "teach", "evaluate")]
        assert all((path / "step.json").exists() for path in steps)
        return lines[-1].removeprefix("error: ")

    return run


def spoil(path, old, new):
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode("utf-8", "surrogateescape"))


# ---- collections


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "old", "new", "place", "message"),
    [
        ("corpus.jsonl", '{"_id": "p4"', '{"_id": p4', "corpus.jsonl:5", "JSON"),
        ("corpus.jsonl", '{"_id": "p4"', '["_id", "p4"', "corpus.jsonl:5", ""),
        ("corpus.jsonl", '{"_id": "p4", ', "{", "corpus.jsonl:5", "_id"),
        ("corpus.jsonl", '"title": "t4", "text"', '"title": "t4", "body"', "corpus.jsonl:5", "text"),
        ("corpus.jsonl", '"_id": "p4"', '"_id": "p2"', "corpus.jsonl:5", "'p2' is given twice, first in"),
        ("corpus.jsonl", '"title": "t4"', '"title": "\udcff"', "corpus.jsonl:5", "UTF-8"),
        ("queries.jsonl", '"_id": "q6"', '"_id": "q5"', "queries.jsonl:7", "q5"),
        ("queries.jsonl", '"_id": "q6", "text"', '"_id": "q6", "query"', "queries.jsonl:7", "text"),
        ("queries.jsonl", '{"_id": "q6"', '{{"_id": "q6"', "queries.jsonl:7", "JSON"),
        ("qrels/train.tsv", "q3\tp3\t2", "q3\tp3\tgood", "train.tsv:5", "must be an integer, found 'good'"),
        ("qrels/train.tsv", "q3\tp3\t2", "q3\tp3", "train.tsv:5", "2 columns, 3 in the lines before"),
        ("qrels/train.tsv", "q3\tp3\t2", "q3\t\udcff\t2", "train.tsv:5", "UTF-8"),
        ("qrels/train.tsv", "q3\tp3\t2", "q3\tp99\t2", "train.tsv:5", "unknown passage 'p99'"),
        ("qrels/train.tsv", "q3\tp3\t2", "q99\tp3\t2", "train.tsv:5", "unknown query 'q99'"),
    ],
)
def test_a_line_that_is_wrong_is_named(refused, folder, file, old, new, place, message):
    spoil(folder / file, old, new)
    line = refused("mine", f"data.path={folder}")
    assert place in line
    assert message in line


def test_unknown_judgements_are_counted_and_may_be_skipped(refused, command, small, folder, tmp_path):
    with (folder / "qrels" / "train.tsv").open("a") as stream:
        stream.writelines(f"q{row}\tx{row}\t1\n" for row in range(5))
        stream.write("nobody\tp1\t1\n")
    line = refused("mine", f"data.path={folder}")
    assert "train.tsv:18: unknown passage 'x0'" in line
    assert "6 judgement(s) name an unknown query or passage: q0 x0, q1 x1, q2 x2, …" in line
    assert "data.unknown=skip leaves them out" in line
    code, out, errors = command(
        "mine", *small, f"store={tmp_path / 'store'}", f"data.path={folder}", "data.unknown=skip"
    )
    assert code == 0
    assert sum("6 judgement(s) name an unknown query or passage" in line for line in errors) == 1
    assert "queries 12" in out


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("qrels/train.tsv", "query-id\tcorpus-id\tscore\n", "no judgements"),
        ("corpus.jsonl", "", "no passages"),
        ("queries.jsonl", "", "quer"),
    ],
)
def test_empty_files(refused, folder, file, content, message):
    (folder / file).write_text(content)
    line = refused("mine", f"data.path={folder}")
    assert message in line
    assert file.rpartition("/")[2].partition(".")[0] in line


def test_folders_that_are_no_collection(refused, folder, tmp_path):
    assert "nowhere: no such folder" in refused("mine", f"data.path={tmp_path / 'nowhere'}")
    assert "data.split=tset: things has train, dev, test" in refused("evaluate", "data.split=tset")
    (folder / "corpus.jsonl").unlink()
    assert "corpus.jsonl" in refused("mine", f"data.path={folder}")


# ---- configuration


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["teacher=pointwse"], "teacher=pointwse: teacher has the options"),
        (["teacher=pointwse"], "did you mean pointwise?"),
        (["objective=[contrastve]"], "did you mean contrastive?"),
        (["trainer.epoch=3"], "trainer.epoch: there is no such key; did you mean trainer.epochs?"),
        (["trainer.epochs=many"], "trainer.epochs=many: the value must be an integer (the default is 1)"),
        (["data.titles=1"], "data.titles=1: the value must be true or false"),
        (["trainer.select=first"], "trainer.select=first: it is last or best"),
        (["trainer.select=best"], "give trainer.validate_every=STEPS"),
        (["trainer.patience=0", "trainer.validate_every=1"], "trainer.patience=0: it must be at least 1"),
        (["negatives.window=[5,2]"], "negatives.window: [first, last] rank"),
        (["negatives.per_query=9"], "negatives.per_query=9 cannot be drawn from negatives.pool=6"),
        (["objective=[contrastive]", "data.judgements=none"], "objective.contrastive needs judgements"),
        (["data.judgements=nope"], "data.judgements: null (the source's) or 'none' expected"),
        (["evaluation.measures=[ndgc@10]"], "ndgc@10"),
        (["data=folder", "data.evaluate={a: {splitt: dev}}"], "data.evaluate.a.splitt: there is no such key"),
        (["negatives.source=nowhere/run.trec"], "nowhere/run.trec"),
    ],
)
def test_configurations_that_cannot_work(refused, arguments, message, written):
    assert message in refused("train", "objective=[contrastive]", *arguments)
    assert not {"score", "train"} & set(written)


def test_lengths_that_the_encoder_has_no_positions_for(refused):
    line = refused("train", "objective=[contrastive]", "student.passage.max_length=5000")
    assert line.startswith("student.passage.max_length=5000: bert has 256 positions")


def test_validation_on_a_split_without_judgements(refused, written):
    soft = ["objective=[listwise_kl]", "data.judgements=none", "trainer.validate_every=2"]
    assert "trainer.validate_every needs a judged validation split; things/dev has no judgements" in refused(
        "train", *soft
    )
    assert "train" not in written


def test_validation_without_its_split(refused, folder, written):
    (folder / "qrels" / "dev.tsv").unlink()
    line = refused("train", "objective=[contrastive]", f"data.path={folder}", "trainer.validate_every=2")
    assert line == "trainer.validate_every needs a judged validation split; data.validation names none"
    assert written == []


# ---- weights and scores


@pytest.fixture
def pickled(tmp_path):
    """A checkpoint whose weights are only there as a pickle."""
    from retrieval_kd.data.weights import resolve_encoder

    folder = tmp_path / "pickled"
    shutil.copytree(resolve_encoder("tiny"), folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return folder


@pytest.mark.slow
def test_only_safetensors_are_read(refused, pickled):
    expected = f"{pickled} has no safetensors; save the model again with safe_serialization"
    assert refused("train", "objective=[contrastive]", f"encoder.name={pickled}") == f"encoder.name: {expected}"
    assert refused("evaluate", f"model={pickled}") == f"model={pickled}: {expected}"
    teacher = ("teacher=pointwise", f"teacher.scorer.name={pickled}", "~teacher.scorer.train")
    assert "no file named model.safetensors" in refused("score", *teacher)


def test_a_model_that_is_not_there(refused, tmp_path):
    line = refused("search", f"model={tmp_path / 'absent'}")
    assert line == f"model={tmp_path / 'absent'}: no folder {tmp_path / 'absent'}"


@pytest.mark.slow
def test_nan_from_a_teacher(refused, monkeypatch, tmp_path):
    from retrieval_kd.teachers.bm25 import BM25Teacher

    score = BM25Teacher.score

    def broken(self, queries, passages):
        scores = np.array(score(self, queries, passages))
        scores[3] = np.nan
        return scores

    monkeypatch.setattr(BM25Teacher, "score", broken)
    teacher = ("teacher=pointwise", "scorer@teacher.scorer=bm25")
    for verb in ("score", "train"):
        line = refused(verb, *teacher)
        assert "gave nan for 1 of" in line
        assert "nothing of them was stored" in line
    assert not list((tmp_path / "store" / "score").glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q0 p0 nan\n", "scores.tsv:1: the score nan is not a finite number"),
        ("q0 p0 1\nq0 p0 2\n", "scores.tsv:2: passage p0 has a score for query q0 already"),
        ("a b c d\n", "scores.tsv:1: 4 columns"),
        ("a b 1\n", "none of its 1 lines is about a query and a passage of this collection"),
    ],
)
def test_score_files(refused, tmp_path, text, message):
    (tmp_path / "scores.tsv").write_text(text)
    teacher = ("teacher=pointwise", "scorer@teacher.scorer=run_file", f"teacher.scorer.path={tmp_path / 'scores.tsv'}")
    assert message in refused("score", *teacher)


# ---- disks and folders


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", ["mine", *(pytest.param(name, marks=pytest.mark.slow) for name in ("index", "train", "evaluate"))]
)
def test_no_space_left(refused, command, small, monkeypatch, tmp_path, step):
    """Wherever it happens; with space again the same command ends well."""
    replace = os.replace

    def full(source, target):
        if f"/{step}/" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    line = refused("train", "objective=[contrastive]")
    assert f"/{step}/" in line
    assert line.endswith("no space left on the disk; nothing was written half")
    assert [path for path in (tmp_path / "store" / step).iterdir() if path.suffix != ".work"] == []
    monkeypatch.setattr(os, "replace", replace)
    assert command("train", *small, f"store={tmp_path / 'store'}", "objective=[contrastive]")[0] == 0


@pytest.mark.slow
def test_no_space_left_for_the_results(refused, monkeypatch):
    from retrieval_kd.pipeline import run

    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(run.shutil, "copy2", full)
    assert "out: no space left on the disk; nothing was written half" in refused("evaluate", "engine=bm25")


def test_the_folder_of_another_config(command, small, tmp_path):
    own = (*small, "engine=bm25", f"output_dir={tmp_path / 'out'}")
    assert command("evaluate", *own)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    code, _, lines = command("evaluate", *own, "bm25.k1=0.5")
    assert (code, len(lines)) == (2, 1)
    assert f"output_dir={tmp_path / 'out'} holds the results of another config" in lines[0]
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    (tmp_path / "out" / "manifest.json").unlink()
    assert "holds files that no run of ours wrote" in command("evaluate", *own)[2][-1]


# ---- lists of which nothing can be made or learned


@pytest.fixture
def without_positives(folder):
    """Everything is judged, and nothing relevant."""
    path = folder / "qrels" / "train.tsv"
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([header, *(line.rpartition("\t")[0] + "\t0" for line in lines)]) + "\n")
    return f"data.path={folder}"


@pytest.mark.slow
def test_lists_without_a_positive(refused, without_positives):
    line = refused("train", without_positives, "objective=[contrastive]")
    assert line.startswith("objective.contrastive needs positives, and none of 12 lists of mine/train has one")
    line = refused("darken", without_positives, "negatives=dark")
    assert line.startswith("negatives=dark: nothing could be made for 12 queries (12 queries have no positive)")


@pytest.mark.slow
def test_texts_shorter_than_a_span_or_a_mask(refused, folder):
    """A word each: there is no part of it to put in or to hide."""
    for name in ("corpus", "queries"):
        path = folder / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("\n".join(json.dumps(row | {"title": "", "text": "red"}) for row in rows) + "\n")
    line = refused("darken", f"data.path={folder}", "negatives=dark")
    assert line.startswith("negatives=dark: nothing could be made for 12 queries (left out: ")
    assert "too short to be changed" in line
    assert line.endswith("negatives=hard would fit")
