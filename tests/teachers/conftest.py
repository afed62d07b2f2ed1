import pytest
import torch

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"w{i}" for i in range(40)]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Write a tiny random classifier with ``labels`` outputs, or an encoder without a head (0)."""
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

    def write(labels, dtype=torch.float32, **settings):
        folder = tmp_path_factory.mktemp("tiny") / f"bert-{labels}"
        vocabulary = [*SPECIAL, *WORDS, "sep", "[", "]"]
        BertTokenizerFast(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(folder)
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = BertConfig(
            vocab_size=len(vocabulary), max_position_embeddings=64, initializer_range=0.2, **shape, **settings
        )
        torch.manual_seed(1)
        if labels:
            config.num_labels = labels
        model = BertForSequenceClassification(config) if labels else BertModel(config)
        model.to(dtype).save_pretrained(folder)
        return str(folder)

    return write


@pytest.fixture(scope="session")
def tiny(checkpoint):
    return checkpoint(1)


@pytest.fixture(scope="session")
def t5(tmp_path_factory):
    """A tiny random T5 whose tokenizer knows the words, ``true`` and ``false``, and spells everything else."""
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    folder = tmp_path_factory.mktemp("language") / "t5"
    known = ["true", "false", "A", "B", "Query:", "Document:", "Document0:", "Document1:", "Relevant:", *WORDS]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    pieces += [(f"▁{word}", -3.0) for word in known]
    pieces += [(letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz0123456789:.{}<>/"]
    T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    config = T5Config(
        vocab_size=len(pieces),
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        initializer_factor=2.0,
        **shape,
    )
    torch.manual_seed(2)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def gpt(tmp_path_factory):
    """A tiny random GPT-2 that spells everything but `` A`` and `` B``, and has turns of a chat."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

    folder = tmp_path_factory.mktemp("language") / "gpt"
    letters = sorted(ByteLevel.alphabet())
    names = [*letters, "ĠA", "ĠB", "<|endoftext|>"]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = GPT2Tokenizer(vocab=vocabulary, merges=[("Ġ", "A"), ("Ġ", "B")])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|model|>"]})
    tokenizer.save_pretrained(folder)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=256, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3
    )
    torch.manual_seed(3)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)
