import pytest
import torch
from training_case import make_student, make_texts
from transformers import AutoModel, AutoTokenizer

from retrieval_kd.contracts import Side, UserError

TEXTS = [*make_texts(9, 11), "", "red [SEP] bird [MASK]", "ein Fluß"]


@pytest.fixture(scope="module")
def plain(tiny):
    return AutoTokenizer.from_pretrained(tiny), AutoModel.from_pretrained(tiny, dtype=torch.float32)


def expected(plain, text, prompt, length, pooling):
    """A plain Hugging Face forward of one text without padding."""
    tokenizer, encoder = plain
    ids = tokenizer(prompt + text, truncation=True, max_length=length, split_special_tokens=True, return_tensors="pt")[
        "input_ids"
    ]
    with torch.no_grad():
        states = encoder(input_ids=ids).last_hidden_state[0]
    return states[0] if pooling == "cls" else states.mean(0)


@pytest.mark.parametrize(("pooling", "similarity"), [("mean", "cosine"), ("cls", "dot")])
def test_vectors_and_scores_are_those_of_a_plain_forward(tiny, plain, pooling, similarity):
    student = make_student(tiny, pooling=pooling, similarity=similarity)
    queries = torch.stack([expected(plain, text, "find ", 12, pooling) for text in TEXTS])
    passages = torch.stack([expected(plain, text, "", 24, pooling) for text in TEXTS])
    if similarity == "cosine":
        queries, passages = (torch.nn.functional.normalize(v, dim=-1) for v in (queries, passages))
    found = {side: student.encode_texts(TEXTS, side) for side in Side}
    torch.testing.assert_close(found[Side.QUERY]["vectors"], queries, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[Side.PASSAGE]["vectors"], passages, atol=1e-5, rtol=1e-5)
    scores = student.compare(found[Side.QUERY], found[Side.PASSAGE])
    torch.testing.assert_close(scores, queries @ passages.T, atol=1e-4, rtol=1e-5)


def test_separate_encoders_start_equal_and_learn_apart(tiny):
    student = make_student(tiny, shared=False, query={"prompt": "", "max_length": 24})
    before = student.encode_texts(TEXTS, Side.QUERY)["vectors"]
    assert torch.equal(before, student.encode_texts(TEXTS, Side.PASSAGE)["vectors"])
    with torch.no_grad():
        for value in student.query_encoder.parameters():
            value.add_(0.1 * torch.randn_like(value))
    torch.testing.assert_close(before, student.encode_texts(TEXTS, Side.PASSAGE)["vectors"], atol=0, rtol=0)
    assert (before - student.encode_texts(TEXTS, Side.QUERY)["vectors"]).abs().max() > 0.01
    assert len(list(student.parameters())) == 2 * len(list(make_student(tiny).parameters()))


def test_first_layers_only(tiny):
    student = make_student(tiny, encoder={"name": str(tiny), "layers": 1})
    assert len(student.encoder.encoder.layer) == 1
    assert student.encoder.config.num_hidden_layers == 1


def test_fingerprint_names_everything_that_a_vector_depends_on(tiny):
    changes = [
        {},
        {"pooling": "cls"},
        {"similarity": "dot"},
        {"shared": False},
        {"query": {"prompt": "", "max_length": 12}},
        {"passage": {"prompt": "", "max_length": 25}},
        {"encoder": {"name": str(tiny), "layers": 1}},
        {"inference": {"precision": "bf16", "tokens_per_batch": 512}},
    ]
    found = [make_student(tiny, **change).fingerprint for change in changes]
    assert len(set(found)) == len(changes)
    batching = {"inference": {"precision": "fp32", "tokens_per_batch": 64}}
    assert make_student(tiny, **batching).fingerprint == found[0]
    student = make_student(tiny)
    next(student.parameters()).data[0] += 1
    assert student.fingerprint != found[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pooling": "max"}, r"student\.pooling=max: it is mean or cls"),
        ({"similarity": "l2"}, r"student\.similarity=l2: it is cosine or dot"),
        ({"encoder": {"name": "tiny", "path": "/nowhere/there", "layers": 9}}, "give 1 to 2"),
    ],
)
def test_bad_settings(tiny, change, says):
    if "encoder" in change:
        change = {"encoder": change["encoder"] | {"path": str(tiny)}}
    with pytest.raises(UserError, match=says):
        make_student(tiny, **change)


def test_cut_at_other_lengths_it_is_the_student_of_these_lengths(tiny, caplog):
    student = make_student(tiny)
    lengths = {side: settings.max_length for side, settings in student.tokenizer.sides.items()}
    before = {side: student.encode_texts(TEXTS, side)["vectors"] for side in Side}
    assert student.cut({}) is student
    short = student.cut({Side.PASSAGE: 5})
    other = make_student(tiny, passage={"prompt": "", "max_length": 5})
    for side in Side:
        torch.testing.assert_close(short.encode_texts(TEXTS, side), other.encode_texts(TEXTS, side))
        torch.testing.assert_close(student.encode_texts(TEXTS, side)["vectors"], before[side])
    assert short.fingerprint == other.fingerprint != student.fingerprint
    long = student.cut({Side.QUERY: 100_000})
    assert long.tokenizer.sides[Side.QUERY].max_length == student.encoder.config.max_position_embeddings
    assert "query texts are cut at" in caplog.text
    assert {side: settings.max_length for side, settings in student.tokenizer.sides.items()} == lengths
