"""Folders written here must give the vectors of a plain Hugging Face forward when sentence-transformers reads them."""

import hashlib
import json
from dataclasses import dataclass

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.interop.sentence_transformers import write_dense

QUERIES = ["green fox", "river", "why does the quick brown fox jump over the river and far away"]
PASSAGES = ["the quick brown fox jumps over the lazy dog", "a river runs far away " * 9, "dog"]
WORDS = sorted({word for text in QUERIES + PASSAGES for word in text.split()} | {"ask", "find"})


@dataclass(frozen=True)
class Settings:
    prompt: str
    max_length: int


QUERY, PASSAGE = Settings("ask ", 8), Settings("find ", 24)


def make_tokenizer():
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def make_encoder(seed):
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    return BertModel(config).eval()


def expected(encoder, texts, settings, pooling, normalise):
    tokens = make_tokenizer()(
        [settings.prompt + text for text in texts],
        padding=True,
        truncation=True,
        max_length=settings.max_length,
        return_tensors="pt",
    )
    with torch.no_grad():
        states = encoder(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    vectors = states[:, 0] if pooling == "cls" else (states * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(vectors, dim=-1) if normalise else vectors


def load(folder):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    return library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)


@pytest.mark.parametrize(("pooling", "normalise"), [("mean", True), ("cls", False)])
def test_shared_encoder_gives_the_same_vectors_and_scores(tmp_path, pooling, normalise):
    encoder = make_encoder(0)
    write_dense(tmp_path, encoder, make_tokenizer(), pooling=pooling, normalise=normalise, query=QUERY, passage=PASSAGE)
    model = load(tmp_path)
    queries = model.encode_query(QUERIES, convert_to_tensor=True)
    passages = model.encode_document(PASSAGES, convert_to_tensor=True)
    want_queries = expected(encoder, QUERIES, QUERY, pooling, normalise)
    want_passages = expected(encoder, PASSAGES, PASSAGE, pooling, normalise)
    torch.testing.assert_close(queries, want_queries, atol=1e-5, rtol=0)
    torch.testing.assert_close(passages, want_passages, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.similarity(queries, passages), want_queries @ want_passages.T, atol=1e-4, rtol=0)


def test_each_side_is_cut_at_its_own_length(tmp_path):
    """The long query must not be read to the passage's length: that would change its vector."""
    encoder = make_encoder(0)
    write_dense(tmp_path, encoder, make_tokenizer(), pooling="mean", normalise=True, query=QUERY, passage=PASSAGE)
    model = load(tmp_path)
    uncut = expected(encoder, QUERIES, Settings(QUERY.prompt, PASSAGE.max_length), "mean", True)
    got = model.encode_query(QUERIES, convert_to_tensor=True)
    assert (got - uncut)[2].abs().max() > 1e-3
    assert model.max_seq_length == PASSAGE.max_length


@pytest.mark.parametrize("normalise", [True, False])
def test_separate_encoders_each_serve_their_side(tmp_path, normalise):
    encoders = {Side.QUERY: make_encoder(1), Side.PASSAGE: make_encoder(2)}
    write_dense(tmp_path, encoders, make_tokenizer(), pooling="mean", normalise=normalise, query=QUERY, passage=PASSAGE)
    model = load(tmp_path)
    for encode, texts, side, settings in (
        (model.encode_query, QUERIES, Side.QUERY, QUERY),
        (model.encode_document, PASSAGES, Side.PASSAGE, PASSAGE),
    ):
        want = expected(encoders[side], texts, settings, "mean", normalise)
        torch.testing.assert_close(encode(texts, convert_to_tensor=True), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("separate", [False, True])
def test_files_are_those_the_library_would_save(tmp_path, separate):
    """Load and save again: the same files, the same settings."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    options = {"pooling": "mean", "normalise": True, "query": QUERY, "passage": PASSAGE}
    encoders = {Side.QUERY: make_encoder(1), Side.PASSAGE: make_encoder(2)}
    write_dense(ours, encoders if separate else make_encoder(0), make_tokenizer(), **options)
    load(ours).save(str(theirs), create_model_card=False)
    assert files(ours) == files(theirs)
    for name in files(ours):
        if name.endswith(".safetensors"):
            assert (ours / name).read_bytes() == (theirs / name).read_bytes()
        elif "tokenizer" not in name:
            assert settings(ours / name) == settings(theirs / name), name


def settings(path):
    content = json.loads(path.read_text())
    if isinstance(content, dict):
        content.get("__version__", {}).pop("sentence_transformers", None)  # of the release that is installed
        content.pop("use_cache", None)  # the library turns it off when it loads an encoder
    return content


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_folder_is_a_plain_model_with_safetensors_only(tmp_path):
    encoder, tokenizer = make_encoder(3), make_tokenizer()
    before = tokenizer.model_max_length
    write_dense(tmp_path, encoder, tokenizer, pooling="mean", normalise=True, query=QUERY, passage=PASSAGE)
    again = AutoModel.from_pretrained(tmp_path, local_files_only=True).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in encoder.state_dict().items())
    assert AutoTokenizer.from_pretrained(tmp_path)("green fox").input_ids == tokenizer("green fox").input_ids
    assert not [name for name in files(tmp_path) if name.endswith((".bin", ".pt", ".pkl"))]
    assert tokenizer.model_max_length == before


def test_equal_students_are_equal_files_whatever_was_tokenized_last(tmp_path):
    tokenizer, digests = make_tokenizer(), []
    for name, longest in (("one", 5), ("two", 7)):
        tokenizer(PASSAGES, padding="max_length", truncation=True, max_length=longest)
        write_dense(
            tmp_path / name, make_encoder(0), tokenizer, pooling="mean", normalise=True, query=QUERY, passage=QUERY
        )
        paths = [tmp_path / name / file for file in files(tmp_path / name)]
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
    assert digests[0] == digests[1]
    assert "query_length" not in json.loads((tmp_path / "one/sentence_bert_config.json").read_text())


@pytest.mark.parametrize(
    ("change", "says"), [({"pooling": "max"}, "mean and cls"), ({"query": Settings("", 99)}, "32 positions")]
)
def test_what_cannot_be_written_is_refused(tmp_path, change, says):
    options = {"pooling": "mean", "normalise": True, "query": QUERY, "passage": PASSAGE} | change
    with pytest.raises(UserError, match=says):
        write_dense(tmp_path, make_encoder(0), make_tokenizer(), **options)
    assert not (tmp_path / "modules.json").exists()
