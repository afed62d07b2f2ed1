"""Which collections a config stands for, and what names their content."""

import shutil

import pytest

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.entries import entries


def of(small, *overrides):
    return entries(compose([*small, *overrides]))


def labels(found):
    named = [*(found.train or [None]), found.validation, *found.evaluate]
    return [entry and entry.label for entry in named]


def test_a_folder_trains_on_train_validates_on_dev_and_evaluates_on_split(small):
    assert labels(of(small)) == ["things/train", "things/dev", "things/test"]
    assert labels(of(small, "data.split=dev", "data.name=mine")) == ["mine/train", "mine/dev", "mine/dev"]


def test_a_training_split_may_be_called_training(small, things, tmp_path):
    copy = tmp_path / "things"
    shutil.copytree(things, copy)
    (copy / "qrels" / "train.tsv").rename(copy / "qrels" / "training.tsv")
    assert labels(of(small, f"data.path={copy}")) == ["things/training", "things/dev", "things/test"]
    shutil.copy(things / "qrels" / "train.tsv", copy / "qrels")
    assert labels(of(small, f"data.path={copy}"))[0] == "things/train"


def test_lists_win_over_the_shorthand(small, things):
    found = of(
        small,
        "data.train={a: {split: dev}}",
        f"data.evaluate={{b: {{split: test}}, c: {{path: {things}, split: dev, titles: false}}}}",
        "data.limit.queries=3",
    )
    assert labels(found) == ["a/dev", "things/dev", "b/test", "c/dev"]
    assert [len(entry.collection.queries) for entry in found.evaluate] == [3, 3]
    titled, plain = (entry.collection.passages.texts([0])[0] for entry in found.evaluate)
    assert titled == f"t0 {plain}"


def test_several_collections_to_train_on(small):
    found = of(small, "data.train={a: {split: train, weight: 3}, b: {split: dev, weight: 1}}")
    assert [(entry.label, entry.weight) for entry in found.train] == [("a/train", 3.0), ("b/dev", 1.0)]
    plain = of(small, "data.train={a: {split: train}, b: {split: dev}}")
    assert [entry.weight for entry in plain.train] == [None, None]
    assert [one.key for one in plain.train] == [one.key for one in found.train]


def test_keys_name_content_not_places(small, things, tmp_path):
    copy = tmp_path / "things"
    shutil.copytree(things, copy)
    one, other = of(small).evaluate[0], of(small, f"data.path={copy}").evaluate[0]
    assert (one.key, one.passages_key) == (other.key, other.passages_key)
    changed = [of(small, "data.split=dev"), of(small, "data.judgements=none"), of(small, "data.limit.queries=2")]
    assert len({one.key, *(found.evaluate[0].key for found in changed)}) == 4
    assert changed[0].evaluate[0].passages_key == one.passages_key
    assert of(small, "data.titles=false").evaluate[0].passages_key != one.passages_key
    with (copy / "corpus.jsonl").open("a") as stream:
        stream.write('{"_id": "new", "text": "one more"}\n')
    assert of(small, f"data.path={copy}").evaluate[0].passages_key != one.passages_key


def test_what_is_judged(small, things, tmp_path):
    assert of(small).evaluate[0].judged
    assert not of(small, "data.judgements=none").evaluate[0].judged
    bare = tmp_path / "bare"
    shutil.copytree(things, bare, ignore=shutil.ignore_patterns("qrels"))
    found = of(small, f"data.path={bare}", "data.split=all")
    assert labels(found) == ["bare/all", None, "bare/all"]
    assert not found.evaluate[0].judged


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.split=tset", "data.split=tset: things has train, dev, test"),
        ("data.validation={a: {}, b: {}}", "data.validation takes one collection"),
        ("data.train={a: {weight: 2}, b: {}}", "data.train.b: give every collection a weight, or none"),
        ("data.train={a: {weight: 0}}", "data.train.a.weight=0: a number above 0 is needed"),
        ("data.evaluate={a: {weight: 1}}", "data.evaluate.a.weight: there is no such key"),
        ("data.evaluate={one: dev}", "data.evaluate.one=dev: the value must be a mapping"),
        ("data.evaluate={one: {splitt: dev}}", "data.evaluate.one.splitt: there is no such key; did you mean split?"),
    ],
)
def test_mistakes_name_the_key(small, override, message):
    with pytest.raises(UserError) as caught:
        of(small, override)
    assert str(caught.value).startswith(message)
