import json
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import xxhash

from retrieval_kd.contracts import Passage, UserError
from retrieval_kd.data import passages as module
from retrieval_kd.data.passages import BLOCK, DuplicateIdError, PassageStore, passage_keys

ALPHABETS = ("abc", "äöü", "漢字", "🙂🙃", "\n\t ", "\0")


def generate(count, seed=0):
    draw = random.Random(seed)
    order = draw.sample(range(10**6), count)
    for number in order:
        words = ("".join(draw.choices(draw.choice(ALPHABETS), k=draw.randint(0, 9))) for _ in range(2))
        yield Passage(f"p{number}é", *words)


@pytest.fixture(scope="module")
def passages():
    return list(generate(2 * BLOCK + 17))


@pytest.fixture(scope="module")
def store(passages, tmp_path_factory):
    return PassageStore.build(tmp_path_factory.mktemp("stores") / "store", iter(passages))


def test_everything_comes_back_by_row_and_by_id(store, passages):
    ids = [passage.id for passage in passages]
    assert len(store) == len(passages)
    assert store.ids(range(len(store))) == ids
    assert store.texts(range(len(store))) == [f"{title} {text}".strip() for _, title, text in passages]
    assert store.rows(ids).tolist() == list(range(len(ids)))


def test_any_order_repeats_and_unknown_ids(store, passages):
    rows = np.random.default_rng(0).integers(0, len(store), 3000)
    ids = store.ids(rows)
    assert ids == [passages[row].id for row in rows]
    mixed = [name for pair in zip(ids, (f"{name}x" for name in ids), strict=True) for name in pair]
    assert store.rows(mixed)[::2].tolist() == rows.tolist()
    assert set(store.rows(mixed)[1::2].tolist()) == {-1}


def test_no_rows_no_answers(store):
    assert store.rows([]).tolist() == []
    assert store.texts([]) == []
    assert store.keys([]).tolist() == []


@pytest.mark.parametrize("rows", [[-1], [0, 2 * BLOCK + 17]])
def test_a_row_outside_the_store_is_refused(store, rows):
    with pytest.raises(IndexError, match="8209 passages"):
        store.texts(rows)


def test_titles_decide_the_text_and_the_digest(tmp_path):
    passages = [Passage("a", "Title", " text "), Passage("b", "", "no title")]
    with_titles = PassageStore.build(tmp_path / "with", passages)
    without = PassageStore.build(tmp_path / "without", passages, titles=False)
    assert with_titles.texts([0, 1]) == ["Title  text", "no title"]
    assert without.texts([0, 1]) == ["text", "no title"]
    assert with_titles.digest != without.digest


def test_digest_names_ids_texts_and_order(tmp_path):
    base = [Passage("a", "", "x"), Passage("b", "", "yz")]
    variants = {
        "same": base,
        "moved": base[::-1],
        "renamed": [Passage("c", "", "x"), base[1]],
        "shifted": [Passage("a", "", "xy"), Passage("b", "", "z")],
    }
    digests = {name: PassageStore.build(tmp_path / name, content).digest for name, content in variants.items()}
    assert PassageStore.build(tmp_path / "again", iter(base)).digest == digests["same"]
    assert len(set(digests.values())) == 4


def test_keys_are_those_of_the_ids_and_of_other_processes(store):
    rows = np.array([5, 0, 5])
    ids = store.ids(rows)
    assert store.keys(rows).tolist() == [xxhash.xxh3_64_intdigest(name.encode()) >> 1 for name in ids]
    code = f"from retrieval_kd.data.passages import passage_keys; print(passage_keys({ids!r}).tolist())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert json.loads(printed) == passage_keys(ids).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("buckets", [1, 7])
def test_colliding_keys_are_told_apart_by_id(tmp_path, monkeypatch, buckets):
    monkeypatch.setattr(module, "_keys", lambda ids: np.array([(len(name) % buckets) << 31 for name in ids], np.int64))
    passages = [Passage("x" * size, "", str(size)) for size in random.Random(0).sample(range(1, 200), 150)]
    store = PassageStore.build(tmp_path / "store", passages)
    everyone = ["x" * size for size in range(1, 210)]
    expected = {passage.id: row for row, passage in enumerate(passages)}
    assert store.rows(everyone).tolist() == [expected.get(name, -1) for name in everyone]
    with pytest.raises(DuplicateIdError) as caught:
        PassageStore.build(tmp_path / "twice", [*passages[:100], passages[40]])
    assert (caught.value.passage_id, caught.value.rows) == (passages[40].id, (40, 100))


def test_a_duplicate_id_is_named_with_both_positions_and_leaves_nothing(tmp_path, passages):
    twice = [*passages[:5000], Passage(passages[2].id, "", "other"), passages[7]]
    with pytest.raises(UserError, match=rf"'{passages[2].id}' is given twice, by passages 3 and 5001"):
        PassageStore.build(tmp_path / "store", twice)
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_fails_leaves_nothing(tmp_path, passages):
    def broken():
        yield from passages[:5000]
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        PassageStore.build(tmp_path / "store", broken())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [([], "no passages"), ([Passage("a", "", "\ud800")], "half of a surrogate pair")],
)
def test_what_cannot_be_stored_is_told(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        PassageStore.build(tmp_path / "store", content)


def test_another_store_in_the_same_place_is_not_taken_for_this_one(tmp_path):
    PassageStore.build(tmp_path / "store", [Passage("a", "", "x")])
    assert len(PassageStore.build(tmp_path / "store", [Passage("a", "", "x")])) == 1
    with pytest.raises(UserError, match="another passage store"):
        PassageStore.build(tmp_path / "store", [Passage("b", "", "x")])


def test_only_empty_texts(tmp_path):
    store = PassageStore.build(tmp_path / "store", [Passage("a", "", ""), Passage("b", "", " ")])
    assert store.texts([1, 0]) == ["", ""]


def test_a_pickled_store_reads_the_same_files(store):
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    assert pickle.loads(sent).texts([3, 1]) == store.texts([3, 1])


@pytest.fixture
def copy(passages, tmp_path):
    return PassageStore.build(tmp_path / "store", passages[:100]).path


FILES = [f"{name}.{part}" for name in ("texts", "ids") for part in ("bin", "ends", "bases")]
FILES += ["index.keys", "index.rows"]


@pytest.mark.parametrize("name", FILES)
def test_truncated_or_missing_files_are_found_when_opened(copy, name):
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[:-1])
    with pytest.raises(UserError, match=rf"damaged: {name} has {len(whole) - 1} bytes, {len(whole)} expected"):
        PassageStore(copy)
    (copy / name).unlink()
    with pytest.raises(UserError, match=rf"damaged: {name} is missing"):
        PassageStore(copy)


@pytest.mark.parametrize("name", FILES)
def test_every_changed_byte_is_found_by_verify(copy, name):
    store = PassageStore(copy)
    store.verify()
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is not what was written"):
        PassageStore(copy).verify()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "cannot be read"),
        (lambda text: text.replace('\\"passages\\": 100', '\\"passages\\": 101'), "not what was written"),
        (lambda text: "[]", "cannot be read"),
    ],
)
def test_a_changed_header_is_found_when_opened(copy, change, message):
    header = copy / "header.json"
    header.write_text(change(header.read_text()))
    with pytest.raises(UserError, match=f"damaged: header.json .*{message}"):
        PassageStore(copy)


def test_damage_met_while_reading_is_one_clear_line(copy):
    (copy / "texts.ends").write_bytes(b"\xff" * 400)
    with pytest.raises(UserError, match=r"texts.bin and its ends do not fit"):
        PassageStore(copy).texts([50])
    (copy / "ids.bin").write_bytes(b"\xff" * (copy / "ids.bin").stat().st_size)
    with pytest.raises(UserError, match=r"ids.bin is not UTF-8"):
        PassageStore(copy).ids([50])


def test_no_store_here(tmp_path):
    with pytest.raises(UserError, match="no passage store here"):
        PassageStore(tmp_path)
