import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from retrieval_kd.contracts import UserError
from retrieval_kd.students.backbone import keep_first_layers, load_encoder, load_tokenizer, weights_digest

SHAPE = {"vocab_size": 60, "hidden_size": 16, "num_attention_heads": 2, "pad_token_id": 0}
DEEP = {"num_hidden_layers": 3, "intermediate_size": 32, "max_position_embeddings": 40}
FAMILIES = {
    "Bert": SHAPE | DEEP,
    "DistilBert": {"vocab_size": 60, "dim": 16, "n_heads": 2, "n_layers": 3, "hidden_dim": 32, "pad_token_id": 0},
    "Roberta": SHAPE | DEEP,
    "Electra": SHAPE | DEEP | {"embedding_size": 8},
    "ModernBert": SHAPE | DEEP | {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    "DebertaV2": SHAPE | DEEP | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "MPNet": SHAPE | DEEP,
}
IDS = torch.tensor([[2, 10, 11, 12, 3], [2, 20, 3, 0, 0]])
MASK = (IDS != 0).long()


def make(family):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family])
    return getattr(transformers, f"{family}Model")(config).eval()


def states(encoder):
    with torch.no_grad():
        return encoder(input_ids=IDS, attention_mask=MASK).last_hidden_state


@pytest.fixture
def hidden():
    def after(encoder, layers):
        with torch.no_grad():
            found = encoder(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states[layers]
        return encoder.final_norm(found) if hasattr(encoder, "final_norm") else found

    return after


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_kept_layers_compute_what_they_did_in_the_whole(tmp_path, family, hidden):
    """The states behind block 2 of the whole encoder, also after writing the shorter one and reading it back."""
    whole = make(family)
    expected = hidden(whole, 2)
    whole.save_pretrained(tmp_path / "whole")
    short = load_encoder(tmp_path / "whole", layers=2).eval()
    real = MASK.bool()
    torch.testing.assert_close(states(short)[real], expected[real], atol=1e-5, rtol=1e-5)
    assert (states(load_encoder(tmp_path / "whole").eval()) - expected)[real].abs().max() > 1e-3
    short.save_pretrained(tmp_path / "short")
    again = load_encoder(tmp_path / "short").eval()
    assert weights_digest(again) == weights_digest(short)
    assert torch.equal(states(again), states(short))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_gradient(tmp_path, family):
    """One that gets none stops training on several processes."""
    make(family).save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path, layers=1)
    encoder(input_ids=IDS, attention_mask=MASK).last_hidden_state.square().sum().backward()
    assert not [name for name, value in encoder.named_parameters() if value.grad is None]


def test_weights_are_float32_whatever_the_checkpoint_holds(tmp_path):
    make("Bert").to(torch.bfloat16).save_pretrained(tmp_path)
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    encoder = load_encoder(tmp_path)
    assert {value.dtype for value in encoder.parameters()} == {torch.float32}


@pytest.mark.parametrize("layers", [0, 4])
def test_more_layers_than_there_are(layers):
    with pytest.raises(UserError, match=rf"encoder\.layers={layers}: bert here has 3; give 1 to 3"):
        keep_first_layers(make("Bert"), layers)


def test_an_encoder_that_shares_its_layers_is_refused():
    config = transformers.AlbertConfig(**SHAPE, **DEEP, embedding_size=8)
    with pytest.raises(UserError, match="found no list of 3 blocks in albert"):
        keep_first_layers(transformers.AlbertModel(config), 2)


def test_a_checkpoint_that_is_not_safetensors_is_refused_in_one_line(tmp_path):
    encoder = make("Bert")
    encoder.config.save_pretrained(tmp_path)
    torch.save(encoder.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors") as refused:
        load_encoder(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_folder_without_a_tokenizer_is_refused_in_one_line(tmp_path):
    make("Bert").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no tokenizer there") as refused:
        load_tokenizer(tmp_path)
    assert "\n" not in str(refused.value)


def test_damaged_weights_are_refused_in_one_line(tmp_path):
    make("Bert").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be loaded") as refused:
        load_encoder(tmp_path)
    assert "\n" not in str(refused.value)


def test_weights_of_another_shape_or_name_are_refused(tmp_path):
    """Missing weights would be random ones, silently."""
    make("Bert").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks .*encoder\.layer\.1\.output\.dense\.weight"):
        load_encoder(tmp_path)


def test_digest_changes_with_any_weight_and_with_nothing_else():
    encoder = make("Bert")
    before = weights_digest(encoder)
    assert weights_digest(make("Bert").train()) == before
    with torch.no_grad():
        encoder.encoder.layer[2].output.dense.bias[3] += 1e-6
    assert weights_digest(encoder) != before
