"""Sizes of models that are often named, for plans on machines that do not have them.

Each is what the model's own configuration says: weights, dimension, heads, layers. Of encoder-decoders the layers are
the encoder's, which reads the text; the decoder says a token.
"""

from __future__ import annotations

from retrieval_kd.data.weights import MINILM, TINY
from retrieval_kd.pipeline.estimates import EncoderSize, encoder_size, folder_of

BERT_BASE = EncoderSize(109_482_240, 768, 12, 12, 12)
MINILM_6 = EncoderSize(22_713_216, 384, 12, 6, 6)
T5_BASE = EncoderSize(222_903_552, 768, 12, 12, 12)
T5_3B = EncoderSize(2_851_598_336, 1024, 32, 24, 24, 24 * (4 * 1024 * 4096 + 2 * 1024 * 16384))

KNOWN = {
    MINILM: MINILM_6,
    "cross-encoder/ms-marco-MiniLM-L-6-v2": MINILM_6,
    "cross-encoder/ms-marco-MiniLM-L6-v2": MINILM_6,
    "cross-encoder/ms-marco-MiniLM-L-12-v2": EncoderSize(33_360_000, 384, 12, 12, 12),
    "bert-base-uncased": BERT_BASE,
    "google-bert/bert-base-uncased": BERT_BASE,
    "colbert-ir/colbertv2.0": BERT_BASE,
    "Luyu/co-condenser-marco": BERT_BASE,
    "distilbert-base-uncased": EncoderSize(66_362_880, 768, 12, 6, 6),
    "distilbert/distilbert-base-uncased": EncoderSize(66_362_880, 768, 12, 6, 6),
    "sentence-transformers/all-mpnet-base-v2": BERT_BASE,
    "google/flan-t5-base": EncoderSize(247_577_856, 768, 12, 12, 12),
    "castorini/monot5-base-msmarco": T5_BASE,
    "castorini/duot5-base-msmarco": T5_BASE,
    "castorini/monot5-3b-msmarco": T5_3B,
    "castorini/duot5-3b-msmarco": T5_3B,
}
TINY_SIZE = EncoderSize(30_000, 32, 2, 2, 2)  # about; it is made, and never fetched


def model_size(name: str, layers: int | None = None, path: str | None = None) -> EncoderSize | None:
    """Sizes of a model that is here, or is known; None of any other."""
    if name == TINY and not path:
        return TINY_SIZE
    found = encoder_size(name, layers, path)
    if found is not None or name not in KNOWN:
        return found
    known = KNOWN[name]
    kept = min(layers or known.depth, known.depth)
    left = known.parameters - (known.depth - kept) * 12 * known.dimension**2
    return EncoderSize(left, known.dimension, known.heads, kept, known.depth, known.per_token * kept // known.depth)


def is_here(name: str, path: str | None = None) -> bool:
    """Whether a model's files are on this machine."""
    if name == TINY and not path:
        return True
    folder = folder_of(path or name)
    return folder is not None and (any(folder.glob("*.safetensors")) or any(folder.glob("*/*.safetensors")))
