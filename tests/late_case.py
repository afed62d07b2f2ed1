"""Checkpoints and students for the tests of late interaction."""

import torch
from training_case import make_texts
from transformers import BertModel, BertTokenizer

MARKERS = {"query": "[unused0]", "passage": "[unused1]"}
LATE_SIDES = {"query": {"prompt": "", "max_length": 12}, "passage": {"prompt": "", "max_length": 24}}
INFERENCE = {"precision": "fp32", "tokens_per_batch": 512}
# Markers and special tokens spelled out, characters that the vocabulary lacks, nothing but punctuation, nothing, and
# more than any side keeps.
ODD = [
    "red [unused0] blue [unused1] [D] river",
    "[CLS] x [MASK][PAD]",
    "\u4e00 - \u4e8c",
    "?! ...",
    "",
    "the city " * 40,
]
TEXTS = [*make_texts(6, 31), "red, blue (and green); a Queen's [ship].", *ODD]


def make_marked(tiny, folder):
    """The tiny encoder with weights of its own and BERT's unused tokens."""
    words = [token for token, _ in sorted(BertTokenizer.from_pretrained(tiny).get_vocab().items(), key=lambda x: x[1])]
    vocabulary = {token: row for row, token in enumerate([*words, *MARKERS.values()])}
    model = BertModel.from_pretrained(tiny)
    torch.manual_seed(3)
    model.resize_token_embeddings(len(vocabulary), mean_resizing=False)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    model.save_pretrained(folder)
    BertTokenizer(vocab=vocabulary, model_max_length=256).save_pretrained(folder)
    return folder


def make_late(checkpoint, **changes):
    """A student of few dimensions."""
    from retrieval_kd.students.late_interaction import build_late_interaction

    settings = {"dimensions": 8, "markers": MARKERS, "add_markers": False, "augment": True, "attend_to_mask": False}
    settings |= {"skip": "punctuation", "inference": INFERENCE, **LATE_SIDES}
    return build_late_interaction({"name": str(checkpoint), "layers": None}, **settings | changes)


def both_sides(student, texts=TEXTS):
    """Representations of the texts as queries and as passages."""
    from retrieval_kd.contracts import Side

    return {side: student.encode_texts(texts, side) for side in Side}


def scores_of(student, texts=TEXTS):
    """Every text as a query against every text as a passage."""
    return student.compare(*both_sides(student, texts).values())
