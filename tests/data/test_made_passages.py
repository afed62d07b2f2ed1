import pickle

import numpy as np
import pytest

from retrieval_kd.contracts import Passage
from retrieval_kd.data.made_passages import MADE, FoundAndMade, made_id, texts_beside
from retrieval_kd.data.passages import PassageStore, passage_keys

FOUND = {"p1": "one", "p2": "two", "dark:mine": "a found one of that name"}
MADE_TEXTS = ["one tw\ufdd0o\ufdd1", "three"]


@pytest.fixture
def both(tmp_path):
    found = PassageStore.build(tmp_path / "found", (Passage(name, "", text) for name, text in FOUND.items()))
    made = (Passage(made_id(text), "", text) for text in MADE_TEXTS)
    PassageStore.build(tmp_path / "step" / MADE, made, titles=False)
    return texts_beside(found, tmp_path / "step")


def test_texts_of_ids_are_looked_up_in_one_place(both):
    ids = [made_id(MADE_TEXTS[1]), "p2", "dark:mine", made_id(MADE_TEXTS[0]), "p1", "p2"]
    rows = both.rows(ids)
    assert both.texts(rows) == ["three", "two", FOUND["dark:mine"], MADE_TEXTS[0], "one", "two"]
    assert both.ids(rows) == ids
    assert (both.keys(rows) == passage_keys(ids)).all()
    assert len(both) == 5
    assert both.rows(["nobody", "p1"]).tolist() == [-1, 0]
    assert both.texts(np.array([], np.int64)) == both.rows([]).tolist() == []


def test_a_worker_process_opens_the_files_again(both):
    again = pickle.loads(pickle.dumps(both))
    assert again.texts(again.rows(["p1", made_id("three")])) == ["one", "three"]


def test_a_step_without_made_passages(tmp_path, both):
    assert texts_beside(both.found, tmp_path) is both.found
    assert isinstance(both, FoundAndMade)


def test_equal_texts_have_one_id():
    assert made_id("a") == made_id("a") != made_id("b")
    assert made_id("a").startswith("dark:")
