import json
import logging

import pytest
import torch
from late_case import INFERENCE, ODD, TEXTS, both_sides, make_late, make_marked, scores_of
from safetensors.torch import load_file
from training_case import make_student
from transformers import AutoTokenizer

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.interop.late_interaction import read, write, write_pylate, write_stanford
from retrieval_kd.interop.late_layouts import is_late_interaction
from retrieval_kd.interop.model_folder import read_model, write_again
from retrieval_kd.students.student import Inference

pytestmark = pytest.mark.slow  # other libraries answer too

STUDENT = {"markers": {"query": "", "passage": ""}, "inference": INFERENCE}  # the folder says the rest
PLAIN = [text for text in TEXTS if text is not ODD[0]]  # without markers that are text: others take them for markers
ADDED = {"markers": {"query": "[Q] ", "passage": "[D] "}, "add_markers": True}
PROMPTS = {"query": {"prompt": "find ", "max_length": 12}, "passage": {"prompt": "text: ", "max_length": 24}}
SHAPES = {
    "as ColBERT": {},
    "as PyLate": ADDED,
    "without masks": {"augment": False},
    "masks are seen": {"attend_to_mask": True},
    "nothing skipped": {"skip": "none"},
    "prompts": PROMPTS,
    "no markers": {"markers": {"query": "", "passage": ""}, **PROMPTS},
}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@pytest.fixture(scope="module")
def marked(tiny, tmp_path_factory):
    return make_marked(tiny, tmp_path_factory.mktemp("marked"))


def load(library, folder):
    return library.MultiVectorEncoder(str(folder), device="cpu", local_files_only=True)


def their_scores(library, folder, texts=PLAIN):
    model = load(library, folder)
    return model.similarity(model.encode_query(texts), model.encode_document(texts)).float()


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@every_shape
def test_what_was_written_is_read_back(marked, tmp_path, shape):
    student = make_late(marked, **shape)
    write(student, tmp_path)
    again = read(tmp_path, Inference(**INFERENCE))
    assert again.fingerprint == student.fingerprint
    assert torch.equal(scores_of(again), scores_of(student))  # of texts that spell markers too
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".ckpt")]
    assert read_model(str(tmp_path), STUDENT).fingerprint == student.fingerprint


@every_shape
def test_sentence_transformers_scores_the_same(marked, tmp_path, library, shape):
    student = make_late(marked, **shape)
    write(student, tmp_path)
    close(their_scores(library, tmp_path), scores_of(student, PLAIN))
    model, sides = load(library, tmp_path), both_sides(student, PLAIN)
    for side, encode in ((Side.QUERY, model.encode_query), (Side.PASSAGE, model.encode_document)):
        for row, vectors in enumerate(encode(PLAIN)):
            expected = sides[side]["tokens"][row, : sides[side]["lengths"][row]]
            torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=0)


def test_the_files_are_those_that_the_library_saves(marked, tmp_path, library):
    write(make_late(marked), tmp_path / "ours")
    load(library, tmp_path / "ours").save_pretrained(str(tmp_path / "theirs"), create_model_card=False)
    for name in ("modules.json", "1_Dense/config.json", "2_MultiVectorMask/config.json", "3_Normalize/config.json"):
        ours, theirs = (json.loads((tmp_path / folder / name).read_text()) for folder in ("ours", "theirs"))
        assert ours == theirs, name
    ours, theirs = (
        json.loads((tmp_path / folder / "sentence_bert_config.json").read_text()) for folder in ("ours", "theirs")
    )
    assert ours.items() <= theirs.items()


@pytest.mark.parametrize("shape", [shape for shape in SHAPES.values() if "query" not in shape], ids=str)
def test_pylates_form(marked, tmp_path, library, shape):
    """sentence-transformers reads it too."""
    student = make_late(marked, **shape)
    write_again(student, tmp_path, "pylate")
    assert is_late_interaction(tmp_path)
    again = read_model(str(tmp_path), STUDENT)
    assert again.tokenizer.marking == student.tokenizer.marking
    close(scores_of(again), scores_of(student))
    close(their_scores(library, tmp_path), scores_of(student, PLAIN))


@pytest.mark.parametrize("shape", [{}, ADDED, SHAPES["masks are seen"], SHAPES["nothing skipped"]], ids=str)
def test_stanfords_form(marked, tmp_path, library, shape):
    """sentence-transformers reads it too; markers that BERT lacks it does not find in its own prompts."""
    student = make_late(marked, **shape)
    write_again(student, tmp_path, "stanford")
    assert is_late_interaction(tmp_path)
    again = read_model(str(tmp_path), STUDENT)
    assert again.fingerprint == student.fingerprint
    close(scores_of(again), scores_of(student))
    if shape is not ADDED:
        close(their_scores(library, tmp_path), scores_of(student, PLAIN))
    assert load_file(tmp_path / "model.safetensors")["linear.weight"].shape == (8, 32)


def test_training_starts_from_every_form(marked, tmp_path):
    student = make_late(marked)
    for form in (None, "pylate", "stanford"):
        folder = tmp_path / str(form)
        folder.mkdir()
        write_again(student, folder, form)
        assert make_late(folder).fingerprint == student.fingerprint


def test_a_folder_of_sentence_transformers_is_read_by_its_own_settings(marked, tmp_path, library):
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    expansion = {"strategy": "fixed", "attend": True, "length": 10}
    transformer = Transformer(str(marked), query_expansion=expansion, document_length=20)
    dense = Dense(32, 6, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings")
    parts = [transformer, dense, MultiVectorMask([".", "the"]), Normalize("token_embeddings")]
    model = library.MultiVectorEncoder(modules=parts, prompts={"query": "find ", "document": "text: "}, device="cpu")
    model.save_pretrained(str(tmp_path), create_model_card=False)
    student = read_model(str(tmp_path), STUDENT)
    texts = [text for text in PLAIN if "[" not in text]  # special tokens that are text stay text here
    close(their_scores(library, tmp_path, texts), scores_of(student, texts))
    assert student.skip == (".", "the")


def test_a_marker_that_a_prompt_does_not_give_back_is_told(marked, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(
        "retrieval_kd.interop.late_interaction._write_tokenizer",
        lambda student, folder: student.tokenizer.tokenizer.save_pretrained(folder),
    )  # markers are then not found in text
    with caplog.at_level(logging.WARNING, "retrieval_kd"):
        write(make_late(marked), tmp_path)
    assert "puts '[unused0]' in front of a query as text, of which this tokenizer makes other tokens" in caplog.text


def change(folder, name, **content):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | content))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("sentence_bert_config.json", {"query_expansion": {"strategy": "min", "length": 9}}, "read is a fixed length"),
        ("2_MultiVectorMask/config.json", {"keep_only_token_ids": [4]}, "read are tokens of documents to skip"),
        ("2_MultiVectorMask/config.json", {"skiplist_tasks": ["query"]}, "read are tokens of documents to skip"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "meanmaxsim"}, "read is maxsim"),
        ("1_Dense/config.json", {"bias": True}, "read are plain ones"),
    ],
)
def test_what_we_do_not_have_is_refused(marked, tmp_path, name, content, says):
    write(make_late(marked), tmp_path)
    (tmp_path / "retrieval_kd.json").unlink()
    change(tmp_path, name, **content)
    with pytest.raises(UserError, match=says):
        read_model(str(tmp_path), STUDENT)


def test_other_modules_are_refused(marked, tmp_path):
    write(make_late(marked), tmp_path)
    (tmp_path / "retrieval_kd.json").unlink()
    rows = json.loads((tmp_path / "modules.json").read_text())
    (tmp_path / "modules.json").write_text(json.dumps([rows[0], rows[1], *rows[1:]]))
    with pytest.raises(UserError, match="its modules are Transformer, Dense, Dense, MultiVectorMask, Normalize; read"):
        read_model(str(tmp_path), STUDENT)


def test_what_a_form_cannot_say_is_refused(marked, tiny, tmp_path):
    for form in ("pylate", "stanford"):
        with pytest.raises(UserError, match=rf"format={form}: student\.query\.prompt is not known there"):
            write_again(make_late(marked, **PROMPTS), tmp_path, form)
        with pytest.raises(UserError, match=f"format={form} is for late-interaction students, and this one is not"):
            write_again(make_student(tiny), tmp_path, form)
    for shape in ({"augment": False}, {"skip": ["red"]}, {"markers": {"query": "", "passage": ""}}):
        with pytest.raises(UserError, match="format=stanford: that library has no"):
            write_stanford(make_late(marked, **shape), tmp_path)
    write_pylate(make_late(marked, skip=["red", "\u2026"]), tmp_path)
    settings = json.loads((tmp_path / "config_sentence_transformers.json").read_text())
    assert settings["skiplist_words"] == ["red"]  # PyLate would skip unknown tokens for the other


def test_checkpoints_without_markers_or_projection(marked, tiny, tmp_path):
    student = make_late(marked)
    write_stanford(student, tmp_path)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"student\.markers\.query=\[unused0\]: .* has no such token"):
        read_model(str(tmp_path), STUDENT)
    change(tmp_path, "artifact.metadata", query_token_id="[MASK]", doc_token_id="[SEP]")
    assert read_model(str(tmp_path), STUDENT).tokenizer.marking.passage == "[SEP]"
    student.encoder.save_pretrained(tmp_path)
    change(tmp_path, "config.json", architectures=["HF_ColBERT"])
    with pytest.raises(UserError, match="no projection of tokens"):
        read_model(str(tmp_path), STUDENT)
    with pytest.raises(UserError, match="neither a MultiVectorEncoder folder nor one of PyLate or Stanford's ColBERT"):
        read_model(str(tiny), STUDENT)
