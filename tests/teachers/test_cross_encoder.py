import logging

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from training_case import make_trainer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from retrieval_kd.contracts import ScoreKind, UserError
from retrieval_kd.data.length_groups import plan_groups
from retrieval_kd.functional.ranking_losses import listwise_cross_entropy, pointwise_cross_entropy
from retrieval_kd.teachers.adamw import LinearAdamW
from retrieval_kd.teachers.cross_encoder import CrossEncoder
from retrieval_kd.teachers.cross_encoder_data import DrawnLists, LabelledList, ListCollator, training_loader

QUERIES = ["w1 w2", "w3", "w4 w5 w6", "w7", "w1 w2"]
PASSAGES = ["w8 w9 w10 w11 w12", "w13", "w14 w15 w16", "w17 w18 w19 w20 w21 w22 w23", "w24"]


@pytest.fixture(scope="module")
def encoder(tiny):
    return CrossEncoder(tiny, max_length=32, tokens_per_batch=1000)


def plain_logits(folder, queries, passages):
    """Each pair by itself, without padding, by the library alone."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return [
            model(**tokenizer(q, p, return_tensors="pt")).logits[0].tolist()
            for q, p in zip(queries, passages, strict=True)
        ]


def test_scores_are_the_logits_of_each_pair_alone(encoder, tiny):
    scores = encoder.score(QUERIES, PASSAGES)
    assert scores.dtype == np.float32
    assert encoder.kind is ScoreKind.LOGIT
    assert scores.std() > 0.01
    np.testing.assert_allclose(scores, np.array(plain_logits(tiny, QUERIES, PASSAGES))[:, 0], atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 40, 10_000])
def test_scores_do_not_depend_on_batches_or_order(encoder, tiny, tokens, monkeypatch):
    monkeypatch.setattr("retrieval_kd.teachers.token_rows.WINDOW", 3)
    expected = encoder.score(QUERIES, PASSAGES)
    other = CrossEncoder(tiny, max_length=32, tokens_per_batch=tokens)
    order = [3, 0, 4, 2, 1]
    scores = other.score([QUERIES[i] for i in order], [PASSAGES[i] for i in order])
    np.testing.assert_allclose(scores, expected[order], atol=1e-5)
    assert other.score([], []).shape == (0,)


def test_the_training_forward_keeps_the_order_of_the_pairs(encoder):
    encoder.encoder.eval()
    queries, passages = QUERIES[1:] + QUERIES[:1], PASSAGES[1:] + PASSAGES[:1]
    columns = encoder.pairs.encode(queries, passages)
    batch = encoder.pairs.batch(columns, lambda lengths: plan_groups(lengths, overhead=1))
    assert len(batch.groups) > 2
    assert not torch.equal(batch.order.argsort(), batch.order)
    with torch.no_grad():
        np.testing.assert_allclose(encoder(batch).numpy(), encoder.score(queries, passages), atol=1e-5)


def test_two_labels_give_log_odds(checkpoint):
    folder = checkpoint(2)
    encoder = CrossEncoder(folder, max_length=32)
    assert encoder.kind is ScoreKind.LOG_ODDS
    expected = [one - zero for zero, one in plain_logits(folder, QUERIES, PASSAGES)]
    np.testing.assert_allclose(encoder.score(QUERIES, PASSAGES), expected, atol=1e-5)


def test_a_checkpoint_without_a_head_gets_one_and_the_log_says_so(checkpoint, tiny, caplog):
    with caplog.at_level(logging.WARNING):
        CrossEncoder(tiny, max_length=32)
        assert not caplog.records
        encoder = CrossEncoder(checkpoint(0), max_length=32, loss=listwise_cross_entropy)
    assert encoder.kind is ScoreKind.LOGIT
    (record,) = caplog.records
    assert "no trained classification head: classifier.bias, classifier.weight" in record.getMessage()


def test_a_checkpoint_without_a_head_does_not_score(checkpoint):
    with pytest.raises(UserError, match=r"no trained classification head \(classifier.bias, .*train it here"):
        CrossEncoder(checkpoint(0), max_length=32)


def test_weights_are_float32_whatever_the_checkpoint_holds(checkpoint):
    encoder = CrossEncoder(checkpoint(1, dtype=torch.bfloat16), max_length=32)
    assert {weight.dtype for weight in encoder.parameters()} == {torch.float32}


def test_scoring_leaves_the_mode_as_it_was_and_has_no_dropout(encoder):
    expected = encoder.score(QUERIES, PASSAGES)
    encoder.encoder.train()
    np.testing.assert_array_equal(encoder.score(QUERIES, PASSAGES), expected)
    assert encoder.encoder.training
    encoder.encoder.eval()
    encoder.score(QUERIES[:1], PASSAGES[:1])
    assert not encoder.encoder.training


def test_bfloat16_is_near_and_single_precision_comes_out(tiny, encoder):
    half = CrossEncoder(tiny, max_length=32, precision="bf16")
    scores, expected = half.score(QUERIES, PASSAGES), encoder.score(QUERIES, PASSAGES)
    assert scores.dtype == np.float32
    assert not np.array_equal(scores, expected)
    np.testing.assert_allclose(scores, expected, atol=0.05 * np.abs(expected).max())
    assert half.fingerprint != encoder.fingerprint


def test_special_tokens_in_text_do_not_open_a_segment(encoder):
    spelled, cut = encoder.score(["w1", "w1"], ["w2 [SEP] w3", "w2 w3"])
    words = encoder.score(["w1"], ["w2 [ sep ] w3"])
    assert spelled == pytest.approx(words[0], abs=1e-5)
    assert abs(spelled - cut) > 1e-4


def test_saved_and_opened_it_scores_the_same_under_the_same_fingerprint(checkpoint, tmp_path):
    encoder = CrossEncoder(
        checkpoint(0),
        max_length=20,
        templates=("w30 {query}", "{passage} w31"),
        tokens_per_batch=64,
        loss=listwise_cross_entropy,  # or a head that was not trained would be refused
    )
    scores = encoder.score(QUERIES, PASSAGES)
    encoder.save(tmp_path / "teacher")
    settings = {"name": str(tmp_path / "teacher"), "templates": encoder.pairs.templates}
    opened = CrossEncoder(**settings, max_length=20, tokens_per_batch=64)
    np.testing.assert_array_equal(opened.score(QUERIES, PASSAGES), scores)
    assert opened.fingerprint == encoder.fingerprint
    assert CrossEncoder(**settings, max_length=21).fingerprint != encoder.fingerprint
    assert not list((tmp_path / "teacher").glob("*.bin"))


def test_the_fingerprint_follows_the_weights(tiny):
    encoder = CrossEncoder(tiny, max_length=32)
    before = encoder.fingerprint
    assert encoder.fingerprint == before
    with torch.no_grad():
        encoder.encoder.classifier.bias.add_(1)
    assert encoder.fingerprint != before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 65}, "max_length=65 is not within 5 and 64"),
        ({"max_length": 4}, "max_length=4"),
        ({"templates": ("{query}", "passage")}, "teacher.templates"),
        ({"precision": "fp8"}, "precision=fp8: it is auto, bf16 or fp32"),
        ({"name": "/nowhere/at/all"}, "cross-encoder /nowhere/at/all: "),
    ],
)
def test_wrong_settings_are_refused(tiny, settings, message):
    with pytest.raises(UserError, match=message):
        CrossEncoder(**{"name": tiny, "max_length": 32, **settings})


def test_wrong_checkpoints_are_refused(checkpoint, tmp_path):
    with pytest.raises(UserError, match="3 labels; a reranker has 1 or 2"):
        CrossEncoder(checkpoint(3), max_length=32)
    folder = checkpoint(1)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no file named model\.safetensors"):
        CrossEncoder(str(tmp_path), max_length=32)


def test_scores_that_are_not_numbers_are_refused(tiny):
    encoder = CrossEncoder(tiny, max_length=32)
    with torch.no_grad():
        encoder.encoder.classifier.bias.fill_(torch.nan)
    with pytest.raises(UserError, match=r"5 of 5 scores are not numbers \(first query: 'w1 w2'\)"):
        encoder.score(QUERIES, PASSAGES)


def lists_to_learn():
    """The passage that holds the query's word is the positive, wherever the others come from."""
    return [
        LabelledList(f"q{i}", f"w{i}", [f"w{(i + j) % 8} w{20 + j}" for j in range(4)], [1, 0, 0, 0]) for i in range(8)
    ]


def train(encoder, epochs, folder, callbacks=(), resume=None):
    dataset = DrawnLists(lists_to_learn(), negatives=3, seed=0)
    collator = ListCollator(encoder.pairs, lambda lengths: plan_groups(lengths, overhead=16))
    trainer = make_trainer(callbacks, max_epochs=epochs, default_root_dir=folder)
    trainer.fit(encoder, training_loader(dataset, collator, batch_size=8), ckpt_path=resume, weights_only=True)
    return trainer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loss", [listwise_cross_entropy, pointwise_cross_entropy])
def test_it_learns_a_handful_of_lists(tiny, tmp_path, loss):
    pl.seed_everything(0, verbose=False)
    encoder = CrossEncoder(tiny, max_length=32, loss=loss, optimizer=LinearAdamW(learning_rate=3e-3))
    before = encoder.fingerprint
    modes = set()
    encoder.register_forward_pre_hook(lambda module, _: modes.add((torch.is_grad_enabled(), module.encoder.training)))
    trainer = train(encoder, 60, tmp_path)
    assert modes == {(True, True)}  # with dropout
    assert trainer.train_dataloader.sampler.epoch == 59  # each epoch drew its own lists
    right = 0
    for item in lists_to_learn():
        scores = encoder.score([item.query] * 4, item.passages)
        right += scores[0] > scores[1:].max()
    assert right == 8
    assert encoder.fingerprint != before


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_resumes_to_the_uninterrupted_weights(checkpoint, tmp_path):
    folder = checkpoint(1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)

    def fresh():
        return CrossEncoder(folder, max_length=32, loss=listwise_cross_entropy, optimizer=LinearAdamW(1e-3))

    whole, broken, resumed = fresh(), fresh(), fresh()
    train(whole, 4, tmp_path)

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == 1

    trainer = train(broken, 4, tmp_path, callbacks=[Stop()])
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    train(resumed, 4, tmp_path, resume=tmp_path / "half.ckpt")
    assert resumed.fingerprint == whole.fingerprint != broken.fingerprint


@pytest.mark.filterwarnings("ignore")
def test_training_without_a_loss_or_an_optimizer_says_which_key(tiny, tmp_path):
    with pytest.raises(UserError, match=r"teacher\.optimizer: absent"):
        train(CrossEncoder(tiny, max_length=32), 1, tmp_path)
    with pytest.raises(UserError, match=r"teacher\.loss: absent"):
        train(CrossEncoder(tiny, max_length=32, optimizer=LinearAdamW()), 1, tmp_path)


def test_the_learning_rate_rises_and_falls_to_zero_and_norms_are_not_decayed():
    settings = LinearAdamW(learning_rate=1.0, weight_decay=0.1, warmup=0.25)
    optimizer, schedule = settings.build(torch.nn.Linear(2, 2), steps=8)
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.5, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert optimizer.param_groups[0]["lr"] == 0
    decays = {group["params"][0].ndim: group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {2: 0.1, 1: 0.0}
