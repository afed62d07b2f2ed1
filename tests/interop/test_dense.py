import json

import huggingface_hub
import pytest
import torch
from training_case import make_student, make_texts
from transformers import AutoModel, AutoTokenizer

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.interop import model_folder
from retrieval_kd.interop.dense import read, read_foreign, write
from retrieval_kd.interop.model_folder import read_model
from retrieval_kd.students.student import Inference

TEXTS = [*make_texts(7, 31), "", "a Queen's [ship]"]
SPELLED = [*TEXTS, "w1 [SEP] w2 [MASK][PAD]"]  # special tokens that are text
INFERENCE = Inference("fp32", 512)
STUDENT = {
    "pooling": "cls",
    "similarity": "dot",
    "shared": False,
    "encoder": {"name": "ignored", "layers": 1},
    "query": {"prompt": "ask ", "max_length": 9},
    "passage": {"prompt": "", "max_length": 17},
    "inference": {"precision": "fp32", "tokens_per_batch": 512},
}


def make(tiny, **changes):
    student = make_student(tiny, **changes)
    torch.manual_seed(1)
    with torch.no_grad():
        for value in student.parameters():
            value.add_(0.02 * torch.randn_like(value))  # so that no weights are those of the start, nor those of a side
    return student


def vectors(student, texts=TEXTS):
    return {side: student.encode_texts(texts, side)["vectors"] for side in Side}


@pytest.fixture
def library():
    return pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")


SHAPES = [
    {},
    {"shared": False},
    {"pooling": "cls", "similarity": "dot"},
    {"shared": False, "similarity": "dot", "encoder_layers": 1},
]


def changes_of(shape, tiny):
    changes = {name: value for name, value in shape.items() if name != "encoder_layers"}
    if "encoder_layers" in shape:
        changes["encoder"] = {"name": str(tiny), "layers": shape["encoder_layers"]}
    return changes


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_was_written_is_read_back(tiny, tmp_path, shape):
    student = make(tiny, **changes_of(shape, tiny))
    write(student, tmp_path)
    again = read(tmp_path, INFERENCE)
    assert again.fingerprint == student.fingerprint
    found, expected = vectors(again), vectors(student)
    for side in Side:
        assert torch.equal(found[side], expected[side])
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".ckpt")]


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sentence_transformers_scores_the_same(tiny, tmp_path, library, shape):
    student = make(tiny, **changes_of(shape, tiny))
    write(student, tmp_path)
    model = library.SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)
    queries = model.encode_query(SPELLED, convert_to_tensor=True)
    passages = model.encode_document(SPELLED, convert_to_tensor=True)
    expected = vectors(student, SPELLED)
    scores = student.compare(*({"vectors": expected[side]} for side in Side))
    atol = 1e-5 * max(1.0, scores.abs().max().item())
    torch.testing.assert_close(model.similarity(queries, passages), scores, atol=atol, rtol=0)
    torch.testing.assert_close(queries, expected[Side.QUERY], atol=1e-5, rtol=0)
    torch.testing.assert_close(passages, expected[Side.PASSAGE], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("pooling", "normalise", "prompts", "similarity"),
    [
        ("mean", True, {"query": "find ", "document": "text : "}, None),
        ("cls", False, {}, "dot"),
        ("mean", False, {"query": "find "}, "cosine"),
    ],
)
def test_a_folder_of_sentence_transformers_is_read_by_its_own_settings(
    tiny, tmp_path, library, pooling, normalise, prompts, similarity
):
    from sentence_transformers.sentence_transformer import modules

    transformer = modules.Transformer(str(tiny), max_seq_length=16)
    parts = [transformer, modules.Pooling(32, pooling)] + ([modules.Normalize()] if normalise else [])
    model = library.SentenceTransformer(modules=parts, prompts=prompts, similarity_fn_name=similarity, device="cpu")
    model.save(str(tmp_path), create_model_card=False)
    student = read_model(str(tmp_path), STUDENT)
    found = vectors(student)
    queries = model.encode_query(TEXTS, convert_to_tensor=True)
    passages = model.encode_document(TEXTS, convert_to_tensor=True)
    scores = model.similarity(queries, passages)
    atol = 1e-5 * max(1.0, scores.abs().max().item())
    compared = student.compare(*({"vectors": found[side]} for side in Side))
    torch.testing.assert_close(compared, scores, atol=atol, rtol=0)
    if normalise or similarity == "dot":
        torch.testing.assert_close(found[Side.QUERY], queries, atol=1e-5, rtol=0)


def older_folder(tiny, folder, **pooling):
    """The layout of releases before 5: the encoder in a folder of its own, a flag per pooling mode."""
    AutoModel.from_pretrained(tiny).save_pretrained(folder / "0_BERT")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder / "0_BERT")
    (folder / "0_BERT/sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 10, "do_lower_case": False}))
    (folder / "1_Pooling").mkdir()
    flags = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(flags | pooling))
    modules = [("0_BERT", "Transformer"), ("1_Pooling", "Pooling")]
    rows = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(rows))
    return folder


def test_an_older_folder_of_sentence_transformers_is_read_too(tiny, tmp_path, library):
    folder = older_folder(tiny, tmp_path)
    student = read_model(str(folder), STUDENT)
    model = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    expected = torch.nn.functional.normalize(model.encode(TEXTS, convert_to_tensor=True), dim=-1)
    torch.testing.assert_close(vectors(student)[Side.PASSAGE], expected, atol=1e-5, rtol=0)


def test_settings_count_on_the_hub_too(tiny, tmp_path, monkeypatch):
    folder = older_folder(tiny, tmp_path)
    monkeypatch.setattr(model_folder, "resolve_encoder", lambda name: name)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: {"some/name": str(folder)}[name])
    student = read_model("some/name", STUDENT)
    assert (student.pooling, student.tokenizer.sides[Side.PASSAGE].max_length) == ("mean", 10)


def test_a_plain_folder_is_read_by_the_students_settings(tiny):
    found = vectors(read_model(str(tiny), STUDENT))
    expected = vectors(make_student(tiny, **STUDENT | {"encoder": {"name": str(tiny), "layers": None}, "shared": True}))
    for side in Side:
        assert torch.equal(found[side], expected[side])


def test_lengths_are_never_more_than_the_positions(tiny, tmp_path):
    """Tokenizers without a limit say 1e30."""
    folder = older_folder(tiny, tmp_path)
    (folder / "0_BERT/sentence_bert_config.json").unlink()
    path = folder / "0_BERT/tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": int(1e30)}))
    student = read_foreign(folder, STUDENT)
    assert student.tokenizer.sides[Side.PASSAGE].max_length == 256
    assert torch.isfinite(student.encode_texts(["red " * 500], Side.PASSAGE)["vectors"]).all()


@pytest.mark.parametrize(
    ("pooling", "says"),
    [
        ({"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}, "read are mean and cls"),
        ({"pooling_mode_cls_token": True}, "read are mean and cls"),
        ({"include_prompt": False}, "include_prompt"),
    ],
)
def test_pooling_that_we_do_not_have_is_refused(tiny, tmp_path, pooling, says):
    folder = older_folder(tiny, tmp_path, **pooling)
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "find "}}))
    with pytest.raises(UserError, match=says):
        read_foreign(folder, STUDENT)


def test_modules_that_we_do_not_have_are_refused(tiny, tmp_path):
    folder = older_folder(tiny, tmp_path)
    rows = json.loads((folder / "modules.json").read_text())
    rows.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match="Transformer, Pooling, Dense"):
        read_foreign(folder, STUDENT)


def test_a_checkpoint_that_is_not_safetensors_is_refused_in_one_line(tiny, tmp_path):
    encoder = AutoModel.from_pretrained(tiny)
    encoder.config.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path)
    torch.save(encoder.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors") as refused:
        read_model(str(tmp_path), STUDENT)
    assert "\n" not in str(refused.value)


def test_a_runs_folder_stands_for_its_model(tiny, tmp_path):
    student = make(tiny)
    write(student, tmp_path / "model")
    assert read_model(str(tmp_path), STUDENT).fingerprint == student.fingerprint


def test_only_our_own_readers_are_called(tiny, tmp_path):
    write(make(tiny), tmp_path)
    path = tmp_path / "retrieval_kd.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"reader": "os.system"}))
    with pytest.raises(UserError, match=r"reader 'os\.system'"):
        read_model(str(tmp_path), STUDENT)
