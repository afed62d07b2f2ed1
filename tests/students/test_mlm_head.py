import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from retrieval_kd.contracts import UserError
from retrieval_kd.students.backbone import weights_digest
from retrieval_kd.students.mlm_head import load_with_head, masked_lm

SIZE = 50
BERT = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": SIZE}
DISTILBERT = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "vocab_size": SIZE}
MODELS = {
    "bert": lambda: BertForMaskedLM(BertConfig(hidden_size=16, **BERT)),
    "bert_untied": lambda: BertForMaskedLM(BertConfig(hidden_size=16, tie_word_embeddings=False, **BERT)),
    "distilbert": lambda: DistilBertForMaskedLM(DistilBertConfig(**DISTILBERT)),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(hidden_size=16, **BERT)),
    "modernbert": lambda: ModernBertForMaskedLM(
        ModernBertConfig(hidden_size=16, pad_token_id=0, attn_implementation="eager", **BERT)
    ),
}
IDS = torch.randint(5, SIZE, (3, 7), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=list(MODELS))
def checkpoint(request, tmp_path_factory):
    """A masked LM whose every weight was drawn, also norms and biases, and its folder."""
    torch.manual_seed(0)
    model = MODELS[request.param]().eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.3 * torch.randn_like(value))
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return model, folder


def logits(encoder, head):
    states = encoder(input_ids=IDS, attention_mask=torch.ones_like(IDS)).last_hidden_state
    return head.transform(states) @ head.decoder_weight.T + head.bias


@torch.no_grad()
def test_logits_are_those_of_the_checkpoint(checkpoint):
    model, folder = checkpoint
    encoder, head = load_with_head(folder)
    expected = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(logits(encoder, head), expected, atol=1e-5, rtol=1e-5)
    assert head.tied == ("untied" not in folder.name)


@torch.no_grad()
def test_written_back_it_is_the_same_model(checkpoint, tmp_path):
    model, folder = checkpoint
    encoder, head = load_with_head(folder)
    head.bias.add_(0.5)
    masked_lm(encoder, head).save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    expected = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits + 0.5
    found = again(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_tied_parameter_is_one_parameter(checkpoint):
    _, folder = checkpoint
    student = nn.ModuleDict(dict(zip(("encoder", "head"), load_with_head(folder), strict=True)))
    head, embeddings = student["head"], student["encoder"].get_input_embeddings()
    shaped = [name for name, value in student.state_dict().items() if tuple(value.shape) == (SIZE, 16)]
    listed = [value for value in student.parameters() if tuple(value.shape) == (SIZE, 16)]
    assert len(shaped) == len(listed) == (1 if head.tied else 2)
    assert (head.decoder_weight is embeddings.weight) == head.tied
    before = weights_digest(student["encoder"])
    head.decoder_weight.data.add_(1)
    assert (weights_digest(student["encoder"]) != before) == head.tied
    moved = student.to(torch.float64)
    assert moved["head"].decoder_weight.dtype == torch.float64
    assert (moved["head"].decoder_weight is moved["encoder"].get_input_embeddings().weight) == head.tied


def test_dropout_is_there_in_training_only(checkpoint):
    _, folder = checkpoint
    encoder, head = load_with_head(folder)
    assert torch.equal(logits(encoder, head), logits(encoder, head))
    if encoder.config.model_type != "modernbert":  # it has none by default
        encoder.train()
        assert not torch.equal(logits(encoder, head), logits(encoder, head))


def test_every_parameter_has_a_gradient(checkpoint):
    _, folder = checkpoint
    encoder, head = load_with_head(folder)
    logits(encoder, head).square().sum().backward()
    without = [name for name, value in nn.ModuleList([encoder, head]).named_parameters() if value.grad is None]
    assert without == []


def test_first_layers_only(checkpoint):
    _, folder = checkpoint
    encoder, head = load_with_head(folder, 1)
    assert encoder.config.num_hidden_layers == 1
    assert logits(encoder, head).isfinite().all()


@torch.no_grad()
def test_an_encoder_without_head_gets_one_and_the_log_says_so(tiny, caplog):
    with caplog.at_level(logging.INFO, "retrieval_kd"):
        encoder, head = load_with_head(tiny)
    assert [r.message for r in caplog.records] == [
        f"{tiny} has no masked-LM head: one is tied to its input embeddings, with a bias of zero"
    ]
    states = encoder.eval()(input_ids=IDS).last_hidden_state
    torch.testing.assert_close(logits(encoder, head), states @ encoder.get_input_embeddings().weight.T)
    assert head.tied
    assert head.bias.count_nonzero() == 0
    assert encoder.pooler is None
    with pytest.raises(ValueError, match="bert has no masked-LM model with this head"):
        masked_lm(encoder, head)


def test_loading_draws_no_random_numbers(tiny):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_with_head(tiny)
    assert torch.rand(1) == expected


def test_a_head_of_which_a_part_is_missing_is_refused(tmp_path):
    model = MODELS["bert"]()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["cls.predictions.transform.LayerNorm.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 weights, first cls\.predictions\.transform\.LayerNorm\.bias"):
        load_with_head(tmp_path)


def test_embeddings_of_another_width_cannot_be_tied(tmp_path):
    config = ElectraConfig(hidden_size=16, embedding_size=8, **BERT)
    ElectraForMaskedLM(config).electra.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="embeddings have 8 dimensions and its states 16, so they cannot be tied"):
        load_with_head(tmp_path)


def test_a_damaged_folder_is_told_as_for_any_encoder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(AutoConfig.for_model("bert", **BERT, hidden_size=16).to_dict()))
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"encoder\.name=.*: cannot be loaded from safetensors"):
        load_with_head(tmp_path)
