import copy
import json
import logging

import pytest
import torch
from late_case import LATE_SIDES, MARKERS, TEXTS, both_sides, make_late, make_marked, scores_of
from safetensors.torch import load_file, save_file
from training_case import fit, make_batch, make_training
from transformers import AutoModel, AutoTokenizer

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.students.token_projection import find_projection, load_projection


@pytest.fixture(scope="module")
def marked(tiny, tmp_path_factory):
    return make_marked(tiny, tmp_path_factory.mktemp("marked"))


@pytest.fixture(scope="module")
def student(marked):
    """Not to be changed."""
    return make_late(marked)


def by_hand(student, folder, text, side):
    """One text, step by step, without padding."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32)
    length = LATE_SIDES[side.value]["max_length"]
    ids = tokenizer(text, truncation=True, max_length=length - 1, split_special_tokens=True)["input_ids"]
    ids.insert(1, tokenizer.convert_tokens_to_ids(MARKERS[side.value]))
    seen, kept = [1] * len(ids), [True] * len(ids)
    if side is Side.QUERY:
        seen, kept = seen + [0] * (length - len(ids)), [True] * length
        ids = ids + [tokenizer.mask_token_id] * (length - len(ids))
    else:
        kept = [token not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~" for token in tokenizer.convert_ids_to_tokens(ids)]
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids]), attention_mask=torch.tensor([seen])).last_hidden_state[0]
        vectors = states[torch.tensor(kept)] @ student.projection.weight.T
    return vectors / vectors.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("side", Side)
def test_representations_are_those_of_the_definition(student, marked, side):
    found = student.encode_texts(TEXTS, side)
    for row, text in enumerate(TEXTS):
        expected = by_hand(student, marked, text, side)
        assert found["lengths"][row] == len(expected)
        torch.testing.assert_close(found["tokens"][row, : len(expected)], expected, atol=1e-5, rtol=0)
        assert not found["tokens"][row, len(expected) :].any()


def test_scores_are_sums_of_best_matches(student):
    queries, passages = both_sides(student).values()
    scores = student.compare(queries, passages)
    for row in range(len(TEXTS)):
        for column, length in enumerate(passages["lengths"].tolist()):
            expected = (queries["tokens"][row] @ passages["tokens"][column, :length].T).max(1).values.sum()
            assert scores[row, column].item() == pytest.approx(expected.item(), abs=1e-5)


def test_punctuation_alone(student):
    """As a query it searches; as a passage its frame of special tokens is left."""
    queries, passages = both_sides(student, ["?! ...", "red bird"]).values()
    assert queries["lengths"].tolist() == [12, 12]
    assert passages["lengths"].tolist() == [3, 5]
    assert student.compare(queries, passages).isfinite().all()
    assert make_scores_differ(student, "red bird!", "red bird")  # it is encoded, though not scored


def make_scores_differ(student, one, other):
    passages = student.encode_texts([one, other], Side.PASSAGE)
    assert passages["lengths"][0] == passages["lengths"][1]
    return (passages["tokens"][0] - passages["tokens"][1]).abs().max() > 1e-3


def test_options_of_queries_and_skipping(marked, student):
    bare, expected = make_late(marked, augment=False, skip="none"), both_sides(student)
    found = both_sides(bare)
    for row, length in enumerate(found[Side.QUERY]["lengths"].tolist()):
        vectors = found[Side.QUERY]["tokens"][row, :length]
        torch.testing.assert_close(vectors, expected[Side.QUERY]["tokens"][row, :length], atol=1e-5, rtol=0)
    assert found[Side.QUERY]["lengths"].min() == 3
    assert found[Side.PASSAGE]["lengths"][6] > expected[Side.PASSAGE]["lengths"][6]
    seen = make_late(marked, attend_to_mask=True).encode_texts(TEXTS, Side.QUERY)
    assert (seen["tokens"] - expected[Side.QUERY]["tokens"]).abs().max() > 1e-3
    chosen = make_late(marked, skip=["red"]).encode_texts(["red bird", "bird."], Side.PASSAGE)
    assert chosen["lengths"].tolist() == [4, 5]


@pytest.mark.parametrize("cached", [False, True])
def test_training_moves_every_weight(marked, training_set, cached):
    student = make_late(marked)
    before = copy.deepcopy(student.state_dict())
    student.prepare(make_training(gradient_cache=cached, temperature=1.0))
    assert fit(student, training_set, [], max_steps=3).global_step == 3
    moved = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert {"projection.weight", "encoder.embeddings.word_embeddings.weight"} <= moved
    assert student.encode_texts([], Side.PASSAGE)["tokens"].shape[0] == 0


def test_cached_gradients_are_the_plain_ones(marked):
    found = []
    for cached in (False, True):
        student = make_late(marked).eval()  # without dropout
        student.prepare(make_training(gradient_cache=cached))
        sides = [student.tokenizer.groups(TEXTS, side, lambda lengths: [(0, 5), (5, len(lengths))]) for side in Side]
        queries, passages = (student.encode(tokens, side) for tokens, side in zip(sides, Side, strict=True))
        student.compare(queries, passages).square().mean().backward()
        found.append({name: value.grad for name, value in student.named_parameters()})
    assert all(value is not None for value in found[0].values())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=1e-7, rtol=1e-4)


def test_a_new_projection_is_the_same_every_time_and_told(marked, caplog):
    with caplog.at_level(logging.INFO, "retrieval_kd"):
        first = load_projection(marked, 32, 8)
    assert f"{marked} has no projection of its tokens: a new one to 8 dimensions (seed 0)" in caplog.text
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(load_projection(marked, 32, 8).weight, first.weight)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(first.weight @ first.weight.T, torch.eye(8), atol=1e-5, rtol=0)


def stanford(marked, folder, weight):
    tensors = {f"bert.{name}": value for name, value in load_file(marked / "model.safetensors").items()}
    save_file(tensors | {"linear.weight": weight}, folder / "model.safetensors", {"format": "pt"})
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((marked / name).read_text())
    return folder


def test_a_checkpoint_that_has_a_projection_keeps_it(marked, student, tmp_path, caplog):
    weight = torch.randn(8, 32)
    folder = stanford(marked, tmp_path, weight)
    with caplog.at_level(logging.INFO, "retrieval_kd"):
        found = make_late(folder)
    assert "no projection" not in caplog.text
    assert torch.equal(found.projection.weight, weight)
    for name, value in found.encoder.state_dict().items():
        assert torch.equal(value, student.encoder.state_dict()[name])
    with pytest.raises(UserError, match=r"student\.dimensions=16: .* from 32 to 8 .*; student\.dimensions=8 would fit"):
        make_late(folder, dimensions=16)


def modules(folder, weight, second="Dense", **settings):
    (folder / "2_Linear").mkdir()
    chain = [("", "Transformer"), ("2_Linear", second)]
    rows = [{"idx": i, "path": path, "type": f"any.{kind}"} for i, (path, kind) in enumerate(chain)]
    (folder / "modules.json").write_text(json.dumps(rows))
    (folder / "2_Linear" / "config.json").write_text(json.dumps(settings))
    save_file({"linear.weight": weight}, folder / "2_Linear" / "model.safetensors")
    return folder


def test_a_projection_in_a_module_of_its_own(tmp_path):
    weight = torch.randn(8, 32)
    assert torch.equal(find_projection(modules(tmp_path, weight, bias=False)), weight)


def test_what_projects_pooled_vectors_is_none(tmp_path):
    assert find_projection(modules(tmp_path, torch.randn(8, 32), second="Pooling")) is None


@pytest.mark.parametrize("settings", [{"bias": True}, {"activation_function": "torch.Tanh"}, {"use_residual": True}])
def test_a_projection_that_is_no_plain_one(tmp_path, settings):
    with pytest.raises(UserError, match="read are plain ones"):
        find_projection(modules(tmp_path, torch.randn(8, 32), **settings))


def test_markers_that_are_added_are_learned(tiny, training_set):
    new = {"markers": {"query": "[Q] ", "passage": "[D] "}, "add_markers": True}
    student, again = make_late(tiny, **new), make_late(tiny, **new)
    assert student.fingerprint == again.fingerprint
    embeddings = student.encoder.get_input_embeddings().weight
    assert len(embeddings) == len(student.tokenizer.tokenizer) == len(AutoTokenizer.from_pretrained(tiny)) + 2
    assert (embeddings[-1] - embeddings[-2]).abs().max() > 0
    batch = make_batch(training_set, student, range(4))
    sides = student.encode(batch.queries, Side.QUERY), student.encode(batch.passages, Side.PASSAGE)
    student.compare(*sides).square().mean().backward()
    assert embeddings.grad[-2:].abs().sum(1).min() > 0


def test_fingerprint_names_everything_that_a_representation_depends_on(marked, student):
    changes = [
        {},
        {"dimensions": 4},
        {"markers": {"query": "[unused1]", "passage": "[unused0]"}},
        {"augment": False},
        {"attend_to_mask": True},
        {"skip": "none"},
        {"query": {"prompt": "", "max_length": 13}},
        {"passage": {"prompt": "a ", "max_length": 24}},
        {"inference": {"precision": "bf16", "tokens_per_batch": 512}},
    ]
    found = [make_late(marked, **change).fingerprint for change in changes]
    assert len(set(found)) == len(changes)
    assert found[0] == student.fingerprint
    assert make_late(marked, inference={"precision": "fp32", "tokens_per_batch": 64}).fingerprint == found[0]


def test_batches_do_not_matter(marked, student):
    other = make_late(marked, inference={"precision": "fp32", "tokens_per_batch": 64})
    torch.testing.assert_close(scores_of(other), scores_of(student), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"skip": "commas"}, r"student\.skip=commas: it is punctuation, none or a list of tokens"),
        ({"markers": {"query": "[Q] ", "passage": ""}}, r"student\.markers\.query=\[Q\] : .* has no such token"),
        ({"passage": {"prompt": "", "max_length": 999}}, r"student\.passage\.max_length=999: bert has 256 positions"),
    ],
)
def test_bad_settings(marked, change, says):
    with pytest.raises(UserError, match=says):
        make_late(marked, **change)
