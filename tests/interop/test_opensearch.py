import copy
import hashlib
import json
import zipfile
from itertools import pairwise

import numpy as np
import pytest
import torch
from sparse_students import TEXTS, dense, make_checkpoint, make_sparse, make_table
from tokenizers import Tokenizer

from retrieval_kd.contracts import Passage, Side, UserError
from retrieval_kd.data.passages import PassageStore
from retrieval_kd.data.token_weights import read_token_weights, special_ids
from retrieval_kd.interop import opensearch
from retrieval_kd.interop.opensearch import Chunk, stored_chunks, write_bundle
from retrieval_kd.interop.opensearch_requests import RANK_FEATURES, SPARSE_VECTOR, TERMS, TEXT

QUESTION = "a river in the city"
BOTH = (RANK_FEATURES, SPARSE_VECTOR)
IDS = [f"p{row}" for row in range(len(TEXTS))]


@pytest.fixture(scope="module")
def student(tiny, tmp_path_factory):
    return make_sparse(make_checkpoint(tiny, tmp_path_factory.mktemp("opensearch") / "checkpoint"))


@pytest.fixture(scope="module")
def passages(student):
    """Two chunks; the first passage of the second has no active term."""
    found = student.encode_texts(TEXTS, Side.PASSAGE)
    found["lengths"][7] = 0
    found["weights"][7] = 0
    return [
        Chunk(IDS[part], TEXTS[part], {name: value[part] for name, value in found.items()})
        for part in (slice(0, 7), slice(7, None))
    ]


@pytest.fixture
def bundle(student, passages, tmp_path):
    write_bundle(student, tmp_path, "passages-1", iter(passages), QUESTION, BOTH)
    return tmp_path


def make_sparse_like(student, query_table):
    """The student with another table."""
    other = copy.copy(student)
    other._buffers = dict(student._buffers, query_table=query_table)
    return other


def documents(folder):
    """Id and document of every bulk request, in order."""
    lines = [
        json.loads(line) for path in sorted(folder.glob("bulk-*.ndjson")) for line in path.read_text().splitlines()
    ]
    assert all(list(action) == ["index"] for action in lines[::2])
    return [(action["index"]["_id"], document) for action, document in zip(lines[::2], lines[1::2], strict=True)]


@pytest.mark.parametrize("field", BOTH)
def test_scores_of_the_files_are_ours(student, passages, bundle, field):
    """A product by hand over what the files say."""
    query = json.loads((bundle / field / "query.json").read_text())["query"]["neural_sparse"][TERMS]["query_tokens"]
    found = documents(bundle / field)
    assert [(name, document[TEXT]) for name, document in found] == list(zip(IDS, TEXTS, strict=True))
    scores = [sum(query.get(term, 0.0) * weight for term, weight in document[TERMS].items()) for _, document in found]
    own = [student.compare(student.query_terms([QUESTION]), chunk.representations)[0] for chunk in passages]
    assert max(scores) > 1
    np.testing.assert_allclose(scores, torch.cat(own).numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("field", BOTH)
def test_weights_are_those_that_a_cluster_takes(bundle, field):
    query = json.loads((bundle / field / "query.json").read_text())["query"]["neural_sparse"][TERMS]["query_tokens"]
    assert all(0 < weight <= 64 for weight in query.values())
    found = documents(bundle / field)
    assert all(weight > 0 for _, document in found for weight in document[TERMS].values())
    assert found[7][1][TERMS] == {}
    assert sum(not document[TERMS] for _, document in found) == 1


def test_weights_are_written_to_the_last_bit(student, passages, bundle):
    given = dict(documents(bundle / SPARSE_VECTOR))
    row = passages[0].representations
    length = row["lengths"][0]
    assert list(map(int, given["p0"][TERMS])) == row["terms"][0, :length].tolist()
    assert np.array_equal(np.array(list(given["p0"][TERMS].values()), np.float32), row["weights"][0, :length].numpy())
    tokens = [student.vocabulary[term] for term in row["terms"][0, :length]]
    assert list(dict(documents(bundle / RANK_FEATURES))["p0"][TERMS]) == tokens


def test_both_tables_are_the_students(student, bundle):
    special = special_ids(student.tokenizer.tokenizer)
    for name in ("idf.json", "query_token_weights.txt"):
        table = read_token_weights(bundle / name, student.vocabulary, special)
        assert np.array_equal(table, student.query_table.numpy())


def test_the_archive_makes_the_same_query(student, bundle):
    """As a cluster reads it: distinct tokens, none of them special, a weight of 1 for those that are missing."""
    with zipfile.ZipFile(bundle / "tokenizer.zip") as archive:
        assert sorted(archive.namelist()) == ["idf.json", "tokenizer.json"]
        tokenizer = Tokenizer.from_str(archive.read("tokenizer.json").decode())
        weights = json.loads(archive.read("idf.json"))
    text = json.loads((bundle / RANK_FEATURES / "query_by_text.json").read_text())
    text = text["query"]["neural_sparse"][TERMS]["query_text"]
    assert text == f"find {QUESTION}"
    tokens = {tokenizer.decode([row], skip_special_tokens=True) for row in tokenizer.encode(text).ids} - {""}
    found = {token: weights.get(token, 1.0) for token in tokens}
    asked = json.loads((bundle / RANK_FEATURES / "query.json").read_text())
    assert found == asked["query"]["neural_sparse"][TERMS]["query_tokens"]
    assert min(weights.values()) > 0  # the library that the cluster asks takes no zero
    request = json.loads((bundle / "register_tokenizer.json").read_text())
    content = (bundle / "tokenizer.zip").read_bytes()
    assert request["model_content_hash_value"] == hashlib.sha256(content).hexdigest()
    assert request["model_content_size_in_bytes"] == len(content)


def test_equal_students_make_equal_archives(student, passages, bundle, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    student.tokenizer.tokenizer(TEXTS, padding="max_length", truncation=True, max_length=5)
    write_bundle(student, other, "passages-1", iter(passages), QUESTION)
    assert (other / "tokenizer.zip").read_bytes() == (bundle / "tokenizer.zip").read_bytes()
    assert not (other / SPARSE_VECTOR).exists()


def test_the_index_holds_the_weights_that_there_are(student, passages, bundle):
    exact, quantised = (json.loads((bundle / field / "index.json").read_text()) for field in BOTH)
    assert exact == {"mappings": {"properties": {TEXT: {"type": "text"}, TERMS: {"type": "rank_features"}}}}
    field = quantised["mappings"]["properties"][TERMS]
    assert field["type"] == "sparse_vector"
    assert field["method"]["name"] == "seismic"
    assert quantised["settings"] == {"index": {"sparse": True}}
    largest = max(float(chunk.representations["weights"].max()) for chunk in passages)
    parameters = field["method"]["parameters"]
    assert parameters["quantization_ceiling_ingest"] == max(3.0, largest)
    assert parameters["quantization_ceiling_search"] == 16.0


def test_weights_beyond_the_defaults_raise_the_ceilings(student, passages, tmp_path):
    heavy = [
        chunk._replace(representations=chunk.representations | {"weights": chunk.representations["weights"] * 9})
        for chunk in passages
    ]
    write_bundle(student, tmp_path, "heavy", heavy, QUESTION, [SPARSE_VECTOR])
    index = json.loads((tmp_path / SPARSE_VECTOR / "index.json").read_text())
    ceiling = index["mappings"]["properties"][TERMS]["method"]["parameters"]["quantization_ceiling_ingest"]
    assert (
        ceiling
        == max(
            weight
            for _, document in documents(tmp_path / SPARSE_VECTOR)
            for weight in map(np.float32, document[TERMS].values())
        )
        > 3
    )


def test_flat_representations_of_a_store_are_the_same_files(student, passages, bundle, tmp_path_factory):
    other = tmp_path_factory.mktemp("flat")
    store = PassageStore.build(
        other / "store", [Passage(*row) for row in zip(IDS, [""] * len(IDS), TEXTS, strict=True)]
    )
    rows = student.encode_texts(TEXTS, Side.PASSAGE)
    rows["lengths"][7] = 0
    kept = torch.arange(rows["terms"].shape[1]) < rows["lengths"][:, None]
    flat = {name: rows[name][kept].numpy() for name in ("terms", "weights")}
    flat["offsets"] = np.concatenate([[0], rows["lengths"].cumsum(0).numpy()])
    write_bundle(student, other / "out", "passages-1", stored_chunks(store, flat, rows=5), QUESTION)
    found, expected = documents(other / "out" / RANK_FEATURES), documents(bundle / RANK_FEATURES)
    assert [(name, row[TERMS]) for name, row in found] == [(name, row[TERMS]) for name, row in expected]
    assert [row[TEXT] for _, row in found] == [text.strip() for text in TEXTS]  # as passages are kept


def test_weights_that_weigh_nothing_are_left_out(student, tmp_path):
    """Zeros, and what is too small for a cluster's floats."""
    weights = torch.tensor([[0.5, 0.0, 1e-40, 2.0]])
    one = {"terms": torch.tensor([[7, 8, 9, 10]]), "weights": weights, "lengths": torch.tensor([4])}
    write_bundle(student, tmp_path, "passages", [Chunk(["p"], ["text"], one)], QUESTION, [SPARSE_VECTOR])
    assert documents(tmp_path / SPARSE_VECTOR)[0][1][TERMS] == {"7": 0.5, "10": 2.0}


def test_a_new_file_begins_when_one_is_full(student, passages, bundle, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(opensearch, "PART_BYTES", 500)
    other = tmp_path_factory.mktemp("parts")
    write_bundle(student, other, "passages-1", iter(passages), QUESTION)
    parts = sorted((other / RANK_FEATURES).glob("bulk-*.ndjson"))
    assert len(parts) > 3
    assert all(part.read_bytes().endswith(b"\n") for part in parts)
    assert all(len(part.read_bytes().splitlines()) % 2 == 0 for part in parts)
    assert documents(other / RANK_FEATURES) == documents(bundle / RANK_FEATURES)


def test_passages_are_read_one_chunk_at_a_time(student, passages, tmp_path):
    """Every chunk is written before the next one is asked for."""
    sizes = []

    def stream():
        for chunk in passages * 3:
            sizes.append(sum(part.stat().st_size for part in (tmp_path / RANK_FEATURES).glob("*")))
            yield chunk._replace(texts=["x" * 70_000 for _ in chunk.texts])

    write_bundle(student, tmp_path, "passages", stream(), QUESTION)
    assert all(later - sooner > 200_000 for sooner, later in pairwise(sizes))


def test_the_page_names_every_file_and_the_prompt(bundle):
    page = (bundle / "README.md").read_text()
    for path in bundle.rglob("*"):
        if path.is_file() and path.name not in ("README.md",) and not path.name.startswith("bulk"):
            assert path.name in page
    assert "'find '" in page
    assert "{" not in page.replace("{{", "").split("```bash")[0]
    for path in bundle.rglob("*.json"):
        json.loads(path.read_text())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"index": "My Index"}, "index=My Index"),
        ({"index": "_hidden"}, "lower-case names"),
        ({"fields": ["rank_feature"]}, "rank_features, sparse_vector or both"),
        ({"fields": []}, "rank_features, sparse_vector or both"),
    ],
)
def test_what_a_cluster_would_refuse_is_refused_before_a_file_is_written(student, passages, tmp_path, change, says):
    given = {"index": "passages", "question": QUESTION, "fields": [RANK_FEATURES]} | change
    with pytest.raises(UserError, match=says):
        write_bundle(student, tmp_path / "out", passages=passages, **given)
    assert not (tmp_path / "out").exists()


def test_a_question_without_a_known_token_is_refused(student, tmp_path):
    student = make_sparse_like(student, torch.zeros_like(student.query_table))
    with pytest.raises(UserError, match="no token of it has a weight"):
        write_bundle(student, tmp_path / "out", "passages", [], QUESTION)


def test_ids_that_would_collide_are_refused(student, passages, tmp_path, monkeypatch):
    monkeypatch.setattr(opensearch, "FOLDED_IDS", len(student.vocabulary) - 1)
    with pytest.raises(UserError, match=r"terms would collide; rank_features would fit"):
        write_bundle(student, tmp_path / "out", "passages", passages, QUESTION, BOTH)
    write_bundle(student, tmp_path / "out", "passages", passages, QUESTION)


def test_query_weights_beyond_lucenes_are_refused(student, passages, tmp_path):
    tokenizer = student.tokenizer.tokenizer
    table = make_table(tokenizer, len(tokenizer))
    table[60] = 80.0
    heavy = make_sparse_like(student, torch.from_numpy(table))
    with pytest.raises(UserError, match=r"is 80; .* at most 64, so a table divided by 1\.25"):
        write_bundle(heavy, tmp_path / "out", "passages", passages, QUESTION)


def test_queries_that_need_an_encoder_are_refused(student, passages, tmp_path):
    with pytest.raises(UserError, match="queries that need no encoder"):
        write_bundle(make_sparse_like(student, None), tmp_path / "out", "passages", passages, QUESTION)


@pytest.mark.parametrize(
    ("ids", "weight", "says"), [(["x" * 513], 1.0, "512 bytes"), (["p"], float("nan"), "passage p: a weight")]
)
def test_documents_that_a_cluster_would_refuse_are_named(student, tmp_path, ids, weight, says):
    one = {"terms": torch.tensor([[7]]), "weights": torch.tensor([[weight]]), "lengths": torch.tensor([1])}
    with pytest.raises(UserError, match=says):
        write_bundle(student, tmp_path / "out", "passages", [Chunk(ids, ["text"], one)], QUESTION)


def test_text_of_any_kind_survives(student, tmp_path):
    text = 'a "quote", a\nline, \u2028, \u4e00 and \U0001f600\x00'
    one = {"terms": torch.tensor([[7]]), "weights": torch.tensor([[0.1]]), "lengths": torch.tensor([1])}
    write_bundle(student, tmp_path, "passages", [Chunk(["\u00e9/1"], [text], one)], QUESTION)
    lines = (tmp_path / RANK_FEATURES / "bulk-00000.ndjson").read_bytes().split(b"\n")
    assert len(lines) == 3  # two and the end
    assert documents_of(lines) == {"\u00e9/1": {TEXT: text, TERMS: {student.vocabulary[7]: 0.1}}}


def documents_of(lines):
    return {json.loads(lines[0])["index"]["_id"]: json.loads(lines[1])}


def test_dense_forms_agree(student):
    """What the tests lean on: the padded form of the example query is what the table says."""
    row = dense(student, [QUESTION], Side.QUERY)[0]
    assert row.nonzero().numel() == int(student.query_terms([QUESTION])["lengths"][0])
