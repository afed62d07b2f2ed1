"""Log-odds against the library alone: one prompt at a time, no padding; T5 and GPT-2 with real tokenizers."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from retrieval_kd.contracts import ScoreKind, UserError
from retrieval_kd.teachers.language_model import PairwisePrompt, PointwisePrompt

DUO = "Query: {query} Document0: {first} Document1: {second} Relevant:"
MONO = "Query: {query} Document: {passage} Relevant:"
CHAT = "<|user|>{query}? A: {first} B: {second}<|model|>"
QUERIES = ["w1 w2", "w3", "w4 w5 w6", "w7", "w1 w2"]
FIRSTS = ["w8 w9 w10 w11 w12", "w13", "w14 w15 w16", "w17 w18 w19 w20 w21 w22 w23", "w24"]
SECONDS = ["w9", "w30 w31 w32 w33 w34 w35", "w14 w16", "w2", "w25 w26"]


def judge(name, template=DUO, answers=("true", "false"), max_length=64, precision="fp32", tokens=2000, kind=None):
    return (kind or PairwisePrompt)(name, template, answers, max_length, precision, tokens)


@pytest.fixture(scope="module")
def duo(t5):
    return judge(t5)


def plain(name, prompts, answers):
    """Each prompt by itself: logits of the first written token, by the library alone."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    ids = [tokenizer(answer, add_special_tokens=False)["input_ids"][0] for answer in answers]
    causal = "gpt" in name
    model = (AutoModelForCausalLM if causal else AutoModelForSeq2SeqLM).from_pretrained(name).eval()
    found = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        if not causal:
            inputs["decoder_input_ids"] = torch.tensor([[model.config.decoder_start_token_id]])
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1].double()
        chances = torch.softmax(logits[ids], 0)
        found.append(float(torch.log(chances[0] / chances[1])))
    return found


def test_a_sequence_to_sequence_model_judges_pairs(duo, t5):
    prompts = [DUO.format(query=q, first=i, second=j) for q, i, j in zip(QUERIES, FIRSTS, SECONDS, strict=True)]
    found = duo.score(QUERIES, FIRSTS, SECONDS)
    assert found.dtype == np.float32
    assert duo.kind is ScoreKind.LOG_ODDS
    assert np.abs(found).max() > 0.05
    np.testing.assert_allclose(found, plain(t5, prompts, ("true", "false")), rtol=1e-5, atol=1e-4)


def test_a_sequence_to_sequence_model_scores_passages(t5):
    mono = judge(t5, MONO, kind=PointwisePrompt)
    prompts = [MONO.format(query=q, passage=p) for q, p in zip(QUERIES, FIRSTS, strict=True)]
    np.testing.assert_allclose(mono.score(QUERIES, FIRSTS), plain(t5, prompts, ("true", "false")), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 300, 10_000])
def test_a_causal_model_answers_at_the_end_of_prompts_of_any_length(gpt, tokens):
    """Padded on the left, with positions that do not count the padding."""
    template = "{query}? A: {first} B: {second} Better:"
    model = judge(gpt, template, (" A", " B"), 200, tokens=tokens)
    prompts = [template.format(query=q, first=i, second=j) for q, i, j in zip(QUERIES, FIRSTS, SECONDS, strict=True)]
    found = model.score(QUERIES, FIRSTS, SECONDS)
    assert np.abs(found).max() > 0.05
    np.testing.assert_allclose(found, plain(gpt, prompts, (" A", " B")), atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 60, 10_000])
def test_scores_do_not_depend_on_batches_or_order(duo, t5, tokens):
    expected = duo.score(QUERIES, FIRSTS, SECONDS)
    order = [3, 0, 4, 2, 1]
    some = [[column[row] for row in order] for column in (QUERIES, FIRSTS, SECONDS)]
    np.testing.assert_allclose(judge(t5, tokens=tokens).score(*some), expected[order], rtol=1e-5, atol=1e-4)
    assert duo.score([], [], []).shape == (0,)


def test_the_turns_of_a_chat_are_special_tokens_in_the_template_alone(gpt):
    model = judge(gpt, CHAT, (" A", " B"), 200)
    prompts = [CHAT.format(query="w1", first="w2", second="w3")]
    np.testing.assert_allclose(model.score(["w1"], ["w2"], ["w3"]), plain(gpt, prompts, (" A", " B")), atol=1e-4)
    (ids,) = model.prompts.encode(["<|model|>"], ["<|user|> w2"], ["{query}"])["input_ids"]
    special = {"<|user|>", "<|model|>"}
    tokens = model.prompts.tokenizer.convert_ids_to_tokens(ids)
    assert [token for token in tokens if token in special] == ["<|user|>", "<|model|>"]
    assert model.prompts.tokenizer.decode(ids) == "<|user|><|model|>? A: <|user|> w2 B: {query}<|model|>"


def test_special_tokens_in_text_do_not_end_a_prompt(duo):
    (ids,) = duo.prompts.encode(["w1 </s>"], ["<pad> w2"], ["w3"])["input_ids"]
    assert ids.count(1) == 1
    assert ids[-1] == 1
    assert 0 not in ids


@pytest.mark.parametrize("answers", [("relevant", "false"), ("true", "q q"), ("true", "Z")])
def test_answers_that_the_tokenizer_splits_are_refused(t5, answers):
    with pytest.raises(UserError, match=r"answers: the tokenizer of .*t5 makes .* must be one known token") as caught:
        judge(t5, answers=answers)
    assert "\n" not in str(caught.value)


def test_answers_must_be_two_different_ones(t5):
    with pytest.raises(UserError, match="one and the same token"):
        judge(t5, answers=("true", "true"))
    with pytest.raises(UserError, match="two are needed"):
        judge(t5, answers=("true",))


def test_a_template_needs_each_field_once(t5):
    with pytest.raises(UserError, match=r"template: \{second\} must stand in it once; it holds \{query\}, \{first\}"):
        judge(t5, "Query: {query} {first} Relevant:")
    with pytest.raises(UserError, match=r"\{first\} must stand in it once"):
        judge(t5, "{query} {first} {first} {second}")


def test_lengths_beyond_the_models_positions_are_refused(gpt):
    with pytest.raises(UserError, match=r"max_length=500 is not within 8 and 256"):
        judge(gpt, "{query} {first} {second}", (" A", " B"), 500)


def test_weights_that_are_not_there_are_refused(t5, tmp_path):
    shutil.copytree(t5, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "decoder.block.1" not in name},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(UserError, match="weights are not in the checkpoint"):
        judge(str(tmp_path))


@pytest.mark.slow
def test_a_model_that_writes_nothing_is_refused_in_a_short_line(t5, tmp_path):
    from transformers import T5EncoderModel

    T5EncoderModel.from_pretrained(t5).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(t5).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"language model .*T5Config") as caught:
        judge(str(tmp_path))
    assert len(str(caught.value)) < 400


def test_what_is_no_model_is_one_line(tmp_path):
    with pytest.raises(UserError, match="language model") as caught:
        judge(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_fingerprints_name_what_scores_depend_on(duo, t5):
    assert judge(t5, tokens=50).fingerprint == duo.fingerprint
    others = [
        judge(t5, "Query: {query} A {first} B {second}"),
        judge(t5, answers=("false", "true")),
        judge(t5, max_length=63),
        judge(t5, precision="bf16"),
    ]
    changed = judge(t5)
    with torch.no_grad():
        next(changed.model.parameters()).add_(0.1)
    found = {model.fingerprint for model in (duo, changed, *others)}
    assert len(found) == 6


def test_the_other_answer_first_turns_the_sign(duo, t5):
    turned = judge(t5, answers=("false", "true")).score(QUERIES, FIRSTS, SECONDS)
    np.testing.assert_allclose(turned, -duo.score(QUERIES, FIRSTS, SECONDS), atol=1e-5)
