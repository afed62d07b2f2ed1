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
