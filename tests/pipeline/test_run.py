"""From a folder to a run's folder: every file in its stated form, nothing computed twice, steps alone."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from run_case import go, metrics

from retrieval_kd.contracts import UserError
from retrieval_kd.data.runs import Run
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.run import step, train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

# ---- the files


def test_measures_and_costs(trained, things):
    found = metrics(trained)
    assert set(found) == {"collections", "cost"}
    assert list(found["collections"]) == ["things/test"]
    result = found["collections"]["things/test"]
    assert result["queries"] == 8
    assert list(result["measures"]) == ["ndcg@10", "recall@100"]
    table = pq.read_table(trained / "per_query.parquet")
    assert table.column_names == ["collection", "split", "query_id", "measure", "value"]
    frame = table.to_pylist()
    assert {(row["collection"], row["split"]) for row in frame} == {("things", "test")}
    for name, mean in result["measures"].items():
        values = {row["query_id"]: row["value"] for row in frame if row["measure"] == name}
        assert set(values) == {f"q{row}" for row in range(16, 24)}
        assert np.mean(list(values.values())) == pytest.approx(mean, abs=1e-6)
    cost = found["cost"]
    assert (cost["train_steps"], cost["index_bytes"] > 30 * 32 * 4) == (3, True)
    assert cost["seconds"] > cost["train_seconds"] > 0
    steps = json.loads((trained / "manifest.json").read_text())["steps"]
    assert cost["seconds"] == pytest.approx(sum(one["seconds"] for one in steps), abs=0.1)


def test_the_run_has_nine_digits_and_every_passage(trained):
    lines = [line.split() for line in (trained / "runs" / "things.test.trec").read_text().splitlines()]
    assert len(lines) == 8 * 30
    assert all(len(line) == 6 and line[1] == "Q0" for line in lines)
    assert [int(line[3]) for line in lines[:30]] == list(range(1, 31))
    digits = [len(line[4].lstrip("-0.").replace(".", "")) for line in lines if "e" not in line[4]]
    assert max(digits) == 9
    run = Run.read(trained / "runs" / "things.test.trec")
    assert all((np.diff(scores) <= 0).all() for _, _, scores in run)


def test_resolved_and_manifest(trained, small):
    resolved = yaml.safe_load((trained / "resolved.yaml").read_text())
    assert (resolved["trainer"]["max_steps"], resolved["encoder"]["name"], resolved["seed"]) == (3, "tiny", 42)
    assert "${" not in (trained / "resolved.yaml").read_text()
    manifest = json.loads((trained / "manifest.json").read_text())
    assert {"key", "versions", "commit", "seed", "inputs", "hardware", "steps", "overrides"} <= set(manifest)
    assert {"python", "torch", "transformers", "pytorch-lightning"} <= set(manifest["versions"])
    assert set(manifest["inputs"]) == {"things/train", "things/test"}
    names = [one["step"] for one in manifest["steps"]]
    assert names == ["index", "search", "mine", "score", "train", "encode", "search", "evaluate"]
    assert all(one["seconds"] >= 0 and len(one["digest"]) == 32 for one in manifest["steps"])
    assert manifest["overrides"][: len(small)] == list(small)


def test_losses_are_logged(trained):
    header, *lines = (trained / "log.csv").read_text().splitlines()
    assert {"step", "train/contrastive", "train/listwise_kl"} <= set(header.split(","))
    assert len(lines) >= 3


@pytest.mark.slow
def test_sentence_transformers_scores_as_the_run_says(trained, things):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(trained / "model"), device="cpu")
    records = {name: map(json.loads, (things / f"{name}.jsonl").open()) for name in ("queries", "corpus")}
    queries = {record["_id"]: record["text"] for record in records["queries"]}
    passages = {record["_id"]: f"{record['title']} {record['text']}" for record in records["corpus"]}
    vectors = dict(zip(passages, model.encode_document(list(passages.values())), strict=True))
    for query_id, ids, scores in Run.read(trained / "runs" / "things.test.trec"):
        query = model.encode_query(queries[query_id])
        assert scores == pytest.approx([float(query @ vectors[one]) for one in ids], abs=2e-5)


@pytest.mark.slow
def test_training_moved_the_student(trained, small):
    untrained = go(*small, "recipe=no_training", f"output_dir={trained.parent / 'untrained'}")
    before, after = (Run.read(folder / "runs" / "things.test.trec").as_dict()["q16"] for folder in (untrained, trained))
    assert max(abs(after[passage] - score) for passage, score in before.items()) > 1e-4
    assert not (untrained / "model").exists()


# ---- what is there is not computed again


@pytest.mark.slow
def test_again_computes_nothing_and_one_weight_only_trains(trained, small, ensemble, written, out):
    files = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    assert go(*small, *ensemble, "trainer.log_every=7", f"output_dir={trained}") == trained
    assert written == []
    assert set(files) == {path for path in trained.rglob("*") if path.is_file()}
    same = [path for path in files if path.name not in ("resolved.yaml", "manifest.json")]
    assert all(path.read_bytes() == files[path] for path in same)
    go(*small, *ensemble, "objective.listwise_kl.weight=3", f"output_dir={out}")
    assert written == ["train", "encode", "search", "evaluate"]
    assert metrics(out)["collections"] != {}


@pytest.mark.slow
def test_another_split_only_searches(trained, small, ensemble, written, out):
    go(*small, *ensemble, "data.split=dev", f"output_dir={out}")
    assert written == ["search", "evaluate"]


@pytest.mark.slow
def test_without_output_dir_the_folder_is_named_by_the_result(trained, small, ensemble, written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key = json.loads((trained / "manifest.json").read_text())["key"]
    folder = go(*small, *ensemble)
    assert folder.as_posix() == f"outputs/train/{key[:12]}"
    assert (folder / "model" / "model.safetensors").stat().st_size > 0
    assert written == []


@pytest.mark.slow
def test_folders_of_others_are_left_alone(trained, small, ensemble, out, written):
    with pytest.raises(UserError, match="holds the results of another config"):
        go(*small, *ensemble, "seed=9", f"output_dir={trained}")
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds files that no run of ours wrote"):
        go(*small, *ensemble, f"output_dir={out}")
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    (out / "thesis.tex").unlink()
    go(*small, *ensemble, f"output_dir={out}")  # an empty one is fine
    assert written == []


def test_a_second_collection_that_fails_leaves_no_part_of_a_folder(small, things, tmp_path, out):
    bad = tmp_path / "bad"
    shutil.copytree(things, bad)
    with (bad / "qrels" / "test.tsv").open("a") as stream:
        stream.write("q17\tnowhere\t1\n")
    evaluate = f"data.evaluate={{one: {{split: dev}}, two: {{path: {bad}}}}}"
    with pytest.raises(UserError, match="nowhere"):
        go(*small, "objective=[contrastive]", evaluate, f"output_dir={out}")
    assert list(tmp_path.iterdir()) == [bad]


# ---- a step alone


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["mine", "score", "encode", "search"])
def test_a_step_is_laid_out_where_it_is_asked_for(verb, trained, small, ensemble, out, written):
    overrides = [*small, *ensemble]
    (artifact,) = step(compose(overrides), verb)
    named = [*overrides, f"output_dir={out}"]
    assert step(compose(named), verb) == [out]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["steps"][-1]["digest"] == artifact.name
    assert list(manifest["inputs"])[-1] == ("things/train" if verb in ("mine", "score") else "things/test")
    found = contents(out)
    assert {path: found[path] for path in contents(artifact)} == contents(artifact)
    assert step(compose(named), verb) == [out]
    assert contents(out).keys() == found.keys()
    with pytest.raises(UserError, match=f"output_dir={out} holds the results of another config"):
        step(compose([*named, "bm25.k1=0.5"]), verb)
    (out / "manifest.json").unlink()
    with pytest.raises(UserError, match=f"output_dir={out} holds files that no run of ours wrote"):
        step(compose(named), verb)
    assert written == []


def test_a_step_that_fails_to_be_laid_out_leaves_no_part_of_a_folder(trained, small, ensemble, out, monkeypatch):
    from retrieval_kd.pipeline import run

    monkeypatch.setattr(run, "manifest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        step(compose([*small, *ensemble, f"output_dir={out}"]), "mine")
    assert list(out.parent.iterdir()) == []


def test_output_dir_that_is_a_file_is_told_before_the_work(small, out, written, tmp_path):
    out.write_text("x")
    for place in (out, out / "below"):
        cfg = compose([*small, f"store={tmp_path / 'store'}", f"output_dir={place}"])
        for work in (lambda cfg: step(cfg, "search"), train):
            with pytest.raises(UserError, match=f"output_dir={place}: {out} is a file; name a folder"):
                work(cfg)
    assert written == []


def test_a_step_about_several_collections_gives_each(trained, small, ensemble, things, out):
    evaluate = f"data.evaluate={{one: {{split: dev}}, two: {{path: {things}, split: test}}}}"
    overrides = [*small, *ensemble, evaluate]
    one, two = step(compose(overrides), "search")
    assert (len(Run.read(one / "run.trec")), len(Run.read(two / "run.trec"))) == (4, 8)
    named = step(compose([*overrides, f"output_dir={out}"]), "search")
    assert named == [out / "one.dev", out / "two.test"]
    assert [(folder / "run.trec").read_bytes() for folder in named] == [
        (folder / "run.trec").read_bytes() for folder in (one, two)
    ]
    assert len(step(compose(overrides), "encode")) == 1  # both have the same passages
