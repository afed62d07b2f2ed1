import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sparse_students import INFERENCE, TEXTS, close, dense, load, make_sparse, make_table, root_layout, table_file
from transformers import AutoTokenizer, BertForMaskedLM

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.data.token_weights import special_ids
from retrieval_kd.interop.sparse import read_foreign, write
from retrieval_kd.interop.sparse_layouts import is_sparse

pytestmark = pytest.mark.slow  # another library answers too

STUDENT = {"inference": INFERENCE, "logs": 2}
QUERY = "query_0_SparseStaticEmbedding"


@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_a_root_layout_scores_as_there(with_head, tmp_path, library, activation):
    folder = root_layout(with_head, tmp_path, activation)
    student = read_foreign(folder, STUDENT)
    model = load(library, folder)
    silent = special_ids(student.tokenizer.tokenizer)
    queries = model.encode_query(TEXTS, convert_to_sparse_tensor=False)
    assert queries[:, silent].any()
    queries[:, silent] = 0  # the unknown token has the weight 1 there; special tokens weigh nothing here
    plain = [row for row, text in enumerate(TEXTS) if "[" not in text]  # there such text spells special tokens
    passages = model.encode_document(TEXTS, convert_to_sparse_tensor=False)
    close(dense(student, TEXTS, Side.QUERY)[plain], queries[plain])
    own = student.compare(student.encode_texts(TEXTS, Side.QUERY), student.encode_texts(TEXTS, Side.PASSAGE))
    close(own[plain][:, plain], (queries @ passages.T)[plain][:, plain])
    assert student.logs == {"relu": 1, "log1p_relu": 2}[activation]


def test_a_folder_of_this_release_scores_as_there(with_head, tmp_path, library):
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling

    tokenizer = AutoTokenizer.from_pretrained(with_head)
    model = BertForMaskedLM.from_pretrained(with_head)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    table = torch.from_numpy(make_table(tokenizer, len(tokenizer)))
    table[special_ids(tokenizer)] = 0
    encoder = Transformer(str(tmp_path / "lm"), transformer_task="fill-mask", max_seq_length=20)
    tokenizer.model_max_length = 7
    routes = Router.for_query_document(
        [SparseStaticEmbedding(tokenizer, table, frozen=True)], [encoder, SpladePooling()]
    )
    library.SparseEncoder(modules=[routes], prompts={"query": "find ", "document": "text : "}, device="cpu").save(
        str(tmp_path / "saved"), create_model_card=False
    )
    student = read_foreign(tmp_path / "saved", STUDENT)
    plain = [text for text in TEXTS if "[" not in text]
    loaded = load(library, tmp_path / "saved")
    queries = loaded.encode_query(plain, convert_to_sparse_tensor=False)
    close(dense(student, plain, Side.QUERY), queries)
    scores = student.compare(student.encode_texts(plain, Side.QUERY), student.encode_texts(plain, Side.PASSAGE))
    close(scores, loaded.similarity(queries, loaded.encode_document(plain, convert_to_sparse_tensor=False)))


@pytest.mark.parametrize("kind", ["with_head", "tiny"])
@pytest.mark.parametrize("query_weights", ["file", "encoder"])
def test_our_own_folder_is_read_as_a_foreign_one_too(request, tmp_path, kind, query_weights):
    student = make_sparse(request.getfixturevalue(kind), query_weights, logs=2)
    write(student, tmp_path)
    (tmp_path / "retrieval_kd.json").unlink()
    found = read_foreign(tmp_path, STUDENT | {"logs": 1})
    for side in Side:
        close(dense(found, TEXTS, side), dense(student, TEXTS, side))


def test_a_model_with_a_table_beside_needs_no_modules(with_head, tmp_path):
    model, tokenizer = BertForMaskedLM.from_pretrained(with_head), AutoTokenizer.from_pretrained(with_head)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    table_file(tokenizer, tmp_path / "idf.json")
    assert is_sparse(tmp_path)
    student = read_foreign(tmp_path, STUDENT)
    assert student.logs == 2
    expected = make_sparse(with_head, query={"prompt": "", "max_length": 99}, passage={"prompt": "", "max_length": 64})
    assert torch.equal(dense(student, TEXTS, Side.QUERY), dense(expected, TEXTS, Side.QUERY))


def test_a_table_that_is_named_by_a_moved_path_is_found(with_head, tmp_path):
    folder = root_layout(with_head, tmp_path, **{f"{QUERY}/config.json": {"frozen": True, "path": "/old/idf.json"}})
    (folder / QUERY / "model.safetensors").unlink()
    found = read_foreign(folder, STUDENT)
    tokenizer = found.tokenizer.tokenizer
    expected = make_table(tokenizer, len(tokenizer))
    expected[special_ids(tokenizer)] = 0
    assert np.array_equal(found.query_table.numpy(), expected)


def test_dense_folders_are_not_taken_for_sparse_ones(tiny, with_head, tmp_path):
    assert not is_sparse(tiny)
    assert not is_sparse(with_head)
    (tmp_path / "modules.json").write_text(
        json.dumps([{"path": "", "type": "a.Transformer"}, {"path": "1_Pooling", "type": "a.Pooling"}])
    )
    assert not is_sparse(tmp_path)


TYPES = {QUERY: "a.SparseStaticEmbedding", "": "a.MLMTransformer", "document_1_SpladePooling": "a.SpladePooling"}
ROUTES = {"query": [QUERY], "document": ["", "document_1_SpladePooling"]}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("router_config.json", {"types": TYPES, "structure": ROUTES | {"query": [""]}}, "queries go through MLMTransf"),
        (
            "router_config.json",
            {"types": TYPES, "structure": ROUTES | {"document": [""]}},
            "modules are MLMTransformer;",
        ),
        ("router_config.json", {"types": TYPES | {"": "a.Transformer"}, "structure": ROUTES}, "do not end in logits"),
        ("document_1_SpladePooling/config.json", {"pooling_strategy": "sum"}, "pools by sum of relu"),
        ("document_1_SpladePooling/config.json", {"activation_function": "gelu"}, "pools by max of gelu"),
        (f"{QUERY}/config.json", {"path": "nowhere.json"}, "no file nowhere.json"),
    ],
)
def test_modules_that_we_do_not_have_are_refused(with_head, tmp_path, name, content, says):
    folder = root_layout(with_head, tmp_path, **{name: content})
    with pytest.raises(UserError, match=says) as refused:
        read_foreign(folder, STUDENT)
    assert "\n" not in str(refused.value)


def changed(value, row):
    def change(table):
        table[row] = value
        return table

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed(float("nan"), 40), "weight of .* is nan"),
        (changed(-0.5, 40), r"weight of .* is -0\.5"),
        (lambda table: table[:-1], r"a tensor of \[\d+\] for a vocabulary of"),
    ],
)
def test_weights_that_are_none_are_refused_in_one_line(with_head, tmp_path, change, says):
    folder = root_layout(with_head, tmp_path)
    path = folder / QUERY / "model.safetensors"
    save_file({"weight": change(load_file(path)["weight"]).clone()}, path)
    with pytest.raises(UserError, match=says) as refused:
        read_foreign(folder, STUDENT)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_table_of_another_tokenizer_is_refused(with_head, tmp_path):
    folder = root_layout(with_head, tmp_path)
    path = folder / QUERY / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["city"], vocabulary["river"] = vocabulary["river"], vocabulary["city"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="those of another tokenizer"):
        read_foreign(folder, STUDENT)


def test_weights_in_another_format_are_refused(with_head, tmp_path):
    folder = root_layout(with_head, tmp_path)
    path = folder / QUERY / "model.safetensors"
    torch.save(load_file(path), folder / QUERY / "pytorch_model.bin")
    path.unlink()
    with pytest.raises(UserError, match="no safetensors with a tensor named weight"):
        read_foreign(folder, STUDENT)


def test_a_damaged_settings_file_is_named(with_head, tmp_path):
    folder = root_layout(with_head, tmp_path)
    (folder / "router_config.json").write_text("{")
    with pytest.raises(UserError, match=r"router_config\.json: not valid JSON"):
        read_foreign(folder, STUDENT)


def test_a_model_without_a_head_is_not_taken_for_a_masked_one(with_head, tmp_path):
    folder = root_layout(with_head, tmp_path)
    model = BertForMaskedLM.from_pretrained(folder)
    model.bert.save_pretrained(folder)
    with pytest.raises(UserError, match="has no such head"):
        read_foreign(folder, STUDENT)
