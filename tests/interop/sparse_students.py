"""Checkpoints, foreign folders and texts for the tests of sparse students outside."""

import json

import numpy as np
import torch
from safetensors.torch import save_file
from training_case import make_texts
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from retrieval_kd.data.token_weights import special_ids, tokenizer_vocabulary

# Special tokens spelled out, characters that the vocabulary lacks, nothing, and more than any side keeps.
ODD = [
    "red [SEP] blue [UNK] \u4e00 river",
    "",
    "the city " * 40,
    "[CLS][MASK] [PAD]",
    "\u4e00 \u4e8c",
    "a Queen's [ship]",
]
TEXTS = [*make_texts(6, 31), *ODD]
PADDED = 5  # entries of the head for which the tokenizer has no token


def make_checkpoint(tiny, folder, tied=True):
    """A masked language model with random weights and a vocabulary padded beyond its tokenizer's."""
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(
        vocab_size=len(tokenizer) + PADDED,
        max_position_embeddings=64,
        initializer_range=0.15,
        tie_word_embeddings=tied,
        **sizes,
    )
    torch.manual_seed(5)
    model = BertForMaskedLM(config).eval()
    with torch.no_grad():
        bias = 0.5 * torch.randn(config.vocab_size)
        model.cls.predictions.bias.copy_(bias)
        model.cls.predictions.decoder.bias.copy_(bias)
        model.cls.predictions.transform.dense.bias.normal_(std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_table(tokenizer, size):
    """Weights without meaning, 1.0 at special tokens as in published tables."""
    table = np.random.default_rng(4).uniform(0.1, 9, size).astype(np.float32)
    table[special_ids(tokenizer)] = 1.0
    return table


def table_file(tokenizer, path):
    """The table of ``make_table`` as JSON by token."""
    vocabulary = tokenizer_vocabulary(tokenizer)
    table = make_table(tokenizer, len(vocabulary))
    path.write_text(json.dumps(dict(zip(vocabulary, map(float, table), strict=True))))
    return path


def root_layout(checkpoint, folder, activation="relu", **changes):
    """What OpenSearch publishes: a masked language model with its table beside, and older names of the classes."""
    model, tokenizer = BertForMaskedLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    table_file(tokenizer, folder / "idf.json")
    query, pooling = "query_0_SparseStaticEmbedding", "document_1_SpladePooling"
    package = "sentence_transformers.sparse_encoder.models"
    files = {
        "sentence_bert_config.json": {"max_seq_length": 40, "do_lower_case": False},
        "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Router"}],
        "config_sentence_transformers.json": {
            "model_type": "SparseEncoder",
            "similarity_fn_name": "dot",
            "prompts": {"query": "", "document": ""},
            "__version__": {"sentence_transformers": "5.0.0"},
        },
        "router_config.json": {
            "types": {
                query: f"{package}.SparseStaticEmbedding",
                "": f"{package}.MLMTransformer",
                pooling: f"{package}.SpladePooling",
            },
            "structure": {"query": [query], "document": ["", pooling]},
            "parameters": {"default_route": "document", "allow_empty_key": True},
        },
        f"{query}/config.json": {"frozen": True},
        f"{pooling}/config.json": {
            "pooling_strategy": "max",
            "activation_function": activation,
            "word_embedding_dimension": len(tokenizer),
        },
    }
    for name, content in (files | changes).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    tokenizer.save_pretrained(folder / query)
    weight = torch.from_numpy(make_table(tokenizer, len(tokenizer)))
    save_file({"weight": weight}, folder / query / "model.safetensors")
    return folder


SIDES = {"query": {"prompt": "find ", "max_length": 12}, "passage": {"prompt": "text: ", "max_length": 24}}
INFERENCE = {"precision": "fp32", "tokens_per_batch": 512}


def make_sparse(checkpoint, query_weights="file", logs=1, **changes):
    """A student whose head and table are those of no start."""
    from retrieval_kd.students.sparse_encoder import build_sparse_encoder

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    table = make_table(tokenizer, len(tokenizer)) if query_weights in ("idf", "file", "learned") else None
    settings = SIDES | {"inference": INFERENCE, "prune": 0.0, "token_weights": table} | changes
    student = build_sparse_encoder({"name": str(checkpoint), "layers": None}, query_weights, logs, **settings)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in student.named_parameters():
            change = 0.02 * torch.randn(value.shape, generator=generator)
            value.mul_(1 + change) if name == "query_table" else value.add_(change)
        student.head.bias.add_(0.5 * torch.randn(student.head.bias.shape, generator=generator))
    return student


def dense(student, texts, side):
    """Representations [N, V] of texts."""
    return student._dense(student.encode_texts(texts, side))


def load(library, folder):
    """The folder in sentence-transformers."""
    return library.SparseEncoder(str(folder), device="cpu", local_files_only=True)


def close(found, expected):
    """Equal but for the order of sums."""
    torch.testing.assert_close(found, expected, atol=1e-5 * max(1.0, expected.abs().max().item()), rtol=0)
