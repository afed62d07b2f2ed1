import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sparse_students import INFERENCE, PADDED, TEXTS, close, dense, load, make_sparse
from transformers import AutoModelForMaskedLM, AutoTokenizer

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.data.token_weights import special_ids
from retrieval_kd.interop.model_folder import read_model
from retrieval_kd.interop.sparse import read, write
from retrieval_kd.students.student import Inference

pytestmark = pytest.mark.slow  # another library answers too

STUDENT = {"inference": INFERENCE, "logs": 2}
QUERY = "query_0_SparseStaticEmbedding"


@pytest.fixture(params=["with_head", "untied", "tiny"])
def checkpoint(request):
    """The kinds of heads; that of the last is tied to its embeddings without a transform."""
    return request.getfixturevalue(request.param)


def same_scores(library, folder, student):
    """Scores in the library and here are one; the library's representations."""
    model = load(library, folder)
    queries = model.encode_query(TEXTS, convert_to_sparse_tensor=False)
    passages = model.encode_document(TEXTS, convert_to_sparse_tensor=False)
    own = student.compare(student.encode_texts(TEXTS, Side.QUERY), student.encode_texts(TEXTS, Side.PASSAGE))
    assert own.max() > 1
    close(model.similarity(queries, passages), own)
    return queries, passages


@pytest.mark.parametrize(
    ("query_weights", "logs"),
    [("file", 1), ("learned", 2), ("encoder", 2), pytest.param("encoder", 1, marks=pytest.mark.slow)],
)
def test_sparse_encoder_scores_the_same(checkpoint, tmp_path, library, query_weights, logs):
    student = make_sparse(checkpoint, query_weights, logs)
    write(student, tmp_path)
    queries, passages = same_scores(library, tmp_path, student)
    close(queries, dense(student, TEXTS, Side.QUERY))
    if query_weights != "encoder":  # special tokens of passages stay there, and meet no weight
        passages[:, special_ids(student.tokenizer.tokenizer)] = 0
        passages[:, len(student.tokenizer.tokenizer) :] = 0
    close(passages, dense(student, TEXTS, Side.PASSAGE))


@pytest.mark.parametrize("query_weights", ["binary", "learned", "encoder"])
def test_what_was_written_is_read_back(checkpoint, tmp_path, query_weights):
    student = make_sparse(checkpoint, query_weights, prune=0.1)
    write(student, tmp_path)
    again = read_model(str(tmp_path), STUDENT | {"inference": INFERENCE})
    assert again.fingerprint == student.fingerprint
    for side in Side:
        assert torch.equal(dense(again, TEXTS, side), dense(student, TEXTS, side))
    assert again.vocabulary == student.vocabulary
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in student.named_parameters()]
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".ckpt")]


def test_the_root_is_a_masked_language_model_with_our_logits(with_head, untied, tmp_path):
    for checkpoint in (with_head, untied):
        folder = tmp_path / checkpoint.name
        student = make_sparse(checkpoint)
        write(student, folder)
        model = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True).eval()
        ids = torch.tensor(student.tokenizer.ids(TEXTS[:1], Side.PASSAGE))
        student.eval()
        with torch.no_grad():
            states = student.head.transform(student.encoder(input_ids=ids).last_hidden_state)
            expected = states @ student.head.decoder_weight.T + student.head.bias
            close(model(input_ids=ids).logits, expected)
        assert len(expected[0, 0]) == len(AutoTokenizer.from_pretrained(folder)) + PADDED


def test_the_tables_are_one(with_head, tmp_path):
    student = make_sparse(with_head, "learned")
    with torch.no_grad():
        student.query_table[30] = -1.0  # learned below zero weighs nothing
    write(student, tmp_path)
    table = load_file(tmp_path / QUERY / "model.safetensors")["weight"]
    given = json.loads((tmp_path / "idf.json").read_text())
    assert list(given) == student.vocabulary
    assert np.array_equal(np.array(list(given.values()), np.float32), table.numpy())
    assert table[30] == 0
    assert not table[special_ids(student.tokenizer.tokenizer)].any()
    assert torch.equal(table, student.query_table.detach().relu())


def test_files_are_those_the_library_would_save(checkpoint, tmp_path, library):
    """Load and save again: the same modules with the same settings, the root apart, which has a folder there."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write(make_sparse(checkpoint), ours)
    load(library, ours).save(str(theirs), create_model_card=False)
    for path in (path for path in theirs.rglob("*.json") if "tokenizer" not in path.name):
        name = str(path.relative_to(theirs)).replace("document_0_Transformer/", "")
        found, expected = json.loads((ours / name).read_text()), json.loads(path.read_text())
        if name == "router_config.json":
            expected = json.loads(json.dumps(expected).replace("document_0_Transformer", ""))
        for content in (found, expected):
            for key in ("use_cache", "__version__", "architecture"):
                content.pop(key, None) if isinstance(content, dict) else None
        assert found == expected, name


def test_equal_students_are_equal_files_whatever_was_tokenized_last(with_head, tmp_path):
    student = make_sparse(with_head)
    for name, longest in (("one", 5), ("two", 7)):
        student.tokenizer.tokenizer(TEXTS, padding="max_length", truncation=True, max_length=longest)
        write(student, tmp_path / name)
    for path in (path for path in (tmp_path / "one").rglob("*") if path.is_file()):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes(), path


def test_pruning_is_said_to_be_ours_alone(with_head, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "retrieval_kd"):
        write(make_sparse(with_head, prune=0.2), tmp_path)
    assert "student.prune=0.2" in caplog.text


def test_more_tokens_than_positions_are_refused(with_head):
    make_sparse(with_head, query={"prompt": "", "max_length": 65})  # which no encoder sees
    with pytest.raises(UserError, match=r"student\.passage\.max_length=65: bert has 64 positions"):
        make_sparse(with_head, passage={"prompt": "", "max_length": 65})


def test_read_keeps_the_callers_inference(with_head, tmp_path):
    write(make_sparse(with_head), tmp_path)
    assert read(tmp_path, Inference("fp32", 77)).inference.tokens_per_batch == 77
