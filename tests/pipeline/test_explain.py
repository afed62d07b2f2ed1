"""What is told before the work is what the configuration says, with the true origin of its numbers, and costs none."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline import conf_tree
from retrieval_kd.pipeline.compose import compose, compose_stage
from retrieval_kd.pipeline.estimates import encoder_size, in_words, keeps_vectors, optimizer_steps, stores_scores
from retrieval_kd.pipeline.explain import explain
from retrieval_kd.pipeline.origins import Origins
from retrieval_kd.pipeline.page import TIMES, Page
from retrieval_kd.pipeline.plan import Plan

QUERIES, PASSAGES = 40, 50


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "little"
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": f"p{row}", "text": f"passage {row}"}) for row in range(PASSAGES)]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    lines = [json.dumps({"_id": f"q{row}", "text": f"query {row}"}) for row in range(QUERIES)]
    (folder / "queries.jsonl").write_text("\n".join(lines))
    for split, rows in (("train", range(30)), ("test", range(30, QUERIES))):
        judged = "".join(f"q{row}\tp{row}\t1\n" for row in rows)
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return ["data=folder", f"data.path={folder}", f"store={tmp_path / 'store'}"]


@pytest.fixture
def encoder(tmp_path):
    """Three layers of 10 weights each, 100 for the embeddings, and a pooler that no student keeps."""
    folder = tmp_path / "encoder"
    folder.mkdir()
    layers = {f"encoder.layer.{layer}.weight": np.zeros((2, 5), np.float32) for layer in range(3)}
    other = {"embeddings.weight": np.zeros((25, 4), np.float32), "pooler.weight": np.zeros(1000, np.float32)}
    save_file(layers | other, folder / "model.safetensors")
    config = {"hidden_size": 4, "num_hidden_layers": 3, "num_attention_heads": 2}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def rows(text, *words):
    return [line for line in text.splitlines() if all(word in line for word in words)]


def test_the_formula_has_the_numbers_and_says_whose_they_are(data):
    text = explain(compose([*data, "objective.contrastive.temperature=0.07", "objective.listwise_kl.weight=2.5"]))
    assert "1.0 · contrastive(temperature 0.07, in_batch true" in text
    assert "+ 2.5 · listwise_kl(student_temperature 0.05" in text
    following = text[text.index("contrastive(temperature 0.07") :].splitlines()
    assert "conf/objective/contrastive.yaml" in following[0]
    assert any("temperature: command line" in line for line in following[:2])


@pytest.mark.slow
def test_a_weight_from_an_experiment_or_a_stage_is_told_so(data):
    stages = (
        "recipe.stages.train=['objective=[contrastive]']",
        ("+recipe.stages.second=['objective=[margin_mse]', 'optimizer.lr=0.5']"),
    )
    text = explain(compose([*data, *stages]))
    first, second = text.split("Training, stage ")[1:]
    assert "contrastive(" in first
    assert "margin_mse(" not in first
    assert "not asked" in first
    assert "of bm25, minilm" in second
    assert rows(second, "AdamW(lr 0.5")
    assert "stage second" in second
    assert len(rows(text, "to do", " train/")) == 2
    assert rows(text, "and the positives")  # the second stage asks the teacher
    assert not rows(explain(compose([*data, stages[0]])), "and the positives")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "key", "origin"),
    [
        ([], "objective.contrastive.temperature", "conf/objective/contrastive.yaml"),
        ([], "trainer.accumulate", "conf/trainer/cpu.yaml"),
        (["trainer=ddp"], "trainer.clip", "conf/trainer/cpu.yaml"),  # two files further up
        (["trainer=ddp"], "trainer.accelerator", "conf/trainer/gpu.yaml"),
        (["trainer=ddp"], "trainer.devices", "conf/trainer/ddp.yaml"),
        ([], "optimizer.weight_decay", "conf/config.yaml"),
        (["trainer.batch_size=4", "trainer.batch_size=8"], "trainer.batch_size", "command line"),
        (["evaluation={depth: 4}"], "evaluation.depth", "command line"),
        (["evaluation={depth: 4}"], "evaluation.measures", "conf/config.yaml"),
        (["data.limit={queries: 5}"], "data.limit.passages", "conf/data/python_docs.yaml"),
        (["data.limit={queries: 5}"], "data.limit.queries", "command line"),
        (["experiment=margin_mse"], "name", "conf/experiment/margin_mse.yaml"),
        (["objective=[margin_mse]"], "objective.margin_mse.weight", "conf/objective/margin_mse.yaml"),
        (["encoder.layers=3"], "student.encoder.layers", "command line"),  # through a reference
        ([], "student.encoder.name", "conf/encoder/minilm.yaml"),
        ([], "teacher.members.minilm.encoder.pooling", "conf/scorer/bi_encoder.yaml"),
        (["student.passage.max_length=9"], "teacher.members.minilm.encoder.passage.max_length", "command line"),
        (["scale=paper"], "negatives.pool", "conf/scale/paper.yaml"),
        (["scale=paper"], "negatives.random", "conf/negatives/hard.yaml"),
    ],
)
def test_origins(overrides, key, origin):
    assert Origins(compose(overrides)).of(key) == origin


@pytest.mark.slow
def test_every_setting_of_every_experiment_has_an_origin():
    for name in conf_tree.options()["experiment"]:
        cfg = compose([f"experiment={name}"])
        origins = Origins(cfg)
        for group in ("trainer", "negatives", "optimizer", "evaluation", "encoder"):
            for key in cfg[group]:
                assert origins.of(f"{group}.{key}").endswith(".yaml")


def test_of_a_stage_the_command_still_wins():
    stage, command = ["trainer.epochs=3", "optimizer.lr=0.1"], ["trainer.epochs=5"]
    origins = Origins(compose_stage(stage, command), "warm", len(stage))
    assert origins.of("trainer.epochs") == "command line"
    assert origins.of("optimizer.lr") == "stage warm"


def test_exceptions_stand_behind_the_commonest_origin():
    origins = Origins(compose(["trainer.clip=2.0"]))
    keys = {name: f"trainer.{name}" for name in ("accumulate", "clip", "warmup")}
    assert origins.summary(keys) == "conf/trainer/cpu.yaml; clip: command line"


def test_steps_say_what_is_done_and_where(data):
    cfg = compose(data)
    plan = Plan(cfg)
    index = plan.index(plan.train_entries[0])
    assert rows(explain(cfg), "to do", f"index/{index.key}")
    assert not index.path.parent.exists()  # telling made nothing
    index.path.mkdir(parents=True)
    (index.path / "step.json").write_text(json.dumps({"seconds": 1, "passages": 1234}))
    text = explain(cfg)
    assert rows(text, "done", f"index/{index.key}", "BM25 over little")
    assert rows(text, "to do", f"train/{plan.training().key}")
    order = [line.split("/")[0].split()[-1] for line in text.splitlines() if line.startswith(("  to do", "  done"))]
    assert order == ["index", "search", "mine", "score", "train", "encode", "search", "evaluate"]


def test_calls_are_pool_times_queries_or_what_was_mined(data):
    cfg = compose([*data, "negatives.pool=8", "negatives.random=2"])
    text = explain(cfg)
    assert rows(text, f"10 passages {TIMES} 30 queries", "= 300 pairs")
    assert rows(text, "bm25: 300 scores", "6 kB")
    assert rows(text, f"minilm: at most {30 + PASSAGES} vectors")
    plan = Plan(cfg)
    mined = plan.candidates.mined(plan.train_entries[0]).path
    mined.mkdir(parents=True)
    (mined / "step.json").write_text(json.dumps({"seconds": 1, "candidates": 77, "queries": 25}))
    assert rows(explain(cfg), f"10 passages {TIMES} 25 queries", "= 77 pairs")


def test_sizes_come_from_the_encoders_headers(data, encoder):
    text = explain(compose([*data, f"encoder.name={encoder}", "encoder.layers=2", "trainer.batch_size=3"]))
    assert "2 of 3 layers" in " ".join(text.split())
    assert rows(text, f"120 weights {TIMES} 4 bytes")
    assert rows(
        text, f"vectors of little {PASSAGES * 4 * 4} B", f"{PASSAGES} passages {TIMES} 4 dimensions {TIMES} 4 bytes"
    )
    assert rows(text, "weights, gradients, AdamW 2 kB")  # 16 bytes each
    assert rows(text, "3 queries, 24 passages")


def test_encoder_size_counts_what_is_kept(encoder):
    size = encoder_size(str(encoder), layers=1)
    assert (size.parameters, size.dimension, size.layers, size.depth) == (110, 4, 1, 3)
    assert encoder_size(str(encoder)).parameters == 130
    assert encoder_size("nobody/has-this") is None
    assert size.activations(2, 10) == 20 * (73 * 4 + 12 * 2 * 10)


@pytest.mark.parametrize("queries", [5, 64, 70])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("max_steps", [None, 2, 1000])
def test_updates_are_those_of_a_loop(queries, accumulate, max_steps):
    batch_size, epochs, updates = 16, 2, 0
    batches = len(range(0, queries - min(batch_size, queries) + 1, min(batch_size, queries)))
    for _ in range(epochs):
        for batch in range(1, batches + 1):
            if (batch % accumulate == 0 or batch == batches) and updates != max_steps:
                updates += 1
    trainer = {"batch_size": batch_size, "epochs": epochs, "accumulate": accumulate, "max_steps": max_steps}
    assert optimizer_steps(trainer, queries) == updates


def test_scorers_are_known_by_their_classes():
    teachers = "retrieval_kd.teachers"
    assert keeps_vectors({"_target_": f"{teachers}.bi_encoder.BiEncoderTeacher"})
    assert not keeps_vectors({"_target_": f"{teachers}.cross_encoder.CrossEncoder"})
    assert stores_scores({"_target_": f"{teachers}.cross_encoder.CrossEncoder"})
    assert not stores_scores({"_target_": f"{teachers}.raw_scores.RawScores"})


def test_what_options_say_of_themselves_is_told(data):
    note = "+objective.contrastive.provenance='no formula could be read'"
    text = explain(compose([*data, note]))
    assert rows(text, "note", "objective.contrastive: no formula could be read")
    assert not rows(text, "contrastive(", "no formula")


def test_without_training_there_is_no_loss(data):
    text = explain(compose([*data, "experiment=bm25"]))
    assert "loss" not in text
    assert rows(text, "bm25", "k1 1.2, b 0.75", "conf/config.yaml")
    assert not rows(text, "student")


def test_reranking_asks_for_the_evaluated_queries(data):
    text = explain(compose([*data, "experiment=teacher", "engine.depth=7"]))
    assert rows(text, f"7 passages {TIMES} 10 queries = 70 pairs")
    assert rows(text, "rerank(depth 7)", "command line")


def test_a_teacher_that_is_not_trained_is_refused_alone(data):
    with pytest.raises(UserError, match="target=teacher"):
        explain(compose([*data, "target=teacher"]))


@pytest.mark.slow
def test_before_anything_was_parsed_nothing_is_parsed(tmp_path):
    """In a process of its own: no framework is loaded, and the store is not even made."""
    store = tmp_path / "store"
    code = (
        "import sys; from retrieval_kd.cli.main import main;"
        f"status = main(['explain', 'store={store}']);"
        "heavy = {'torch', 'transformers', 'pytorch_lightning', 'faiss', 'ranx'};"
        "print(sorted(heavy & sys.modules.keys()));"
        "sys.exit(status)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert told.splitlines()[-1] == "[]"
    assert "python_docs was not parsed yet" in told
    assert "conf/data/python_docs.yaml" in told  # not the command line, though the source was replaced
    assert not rows(told, "to do")
    assert not store.exists()
    assert len(told.splitlines()) <= 65


def test_a_page_aligns_each_block():
    page = Page()
    page.title("what")
    page.row("one", "short", "a; b")
    page.row("two", "long " * 20, "c")
    lines = page.text().splitlines()
    assert lines[1].index("a") == lines[2].index("b") == lines[3].index("c")
    assert max(map(len, lines)) < 100


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1500, "2 kB"), (25_000_000, "25 MB"), (2.5e9, "2.5 GB"), (4e12, "4.0 TB")],
)
def test_bytes_in_words(count, words):
    assert in_words(count) == words
