"""Query weights as sentence-transformers and OpenSearch keep them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from transformers import PreTrainedTokenizerBase

from retrieval_kd.contracts import UserError
from retrieval_kd.data.token_weights import read_token_weights, special_ids, tokenizer_vocabulary
from retrieval_kd.interop.module_files import WEIGHTS, read_json
from retrieval_kd.students.backbone import load_tokenizer


def read_query_table(path: Path, tokenizer: PreTrainedTokenizerBase, entries: int) -> np.ndarray:
    """Weights by token id, float32, one for each token of ``tokenizer`` or one for each of the ``entries`` of a head.

    Args:
        path: A SparseStaticEmbedding folder or a JSON file of weights by token.
        tokenizer: That of the passages, whose vocabulary the weights must be of.
        entries: Rows of the head that the weights are multiplied with.
    """
    if path.is_dir():
        named = read_json(path / "config.json").get("path")
        if named is None:
            return _read_tensor(path, tokenizer, entries)
        path = _named(path, str(named))
    return read_token_weights(path, tokenizer_vocabulary(tokenizer), special_ids(tokenizer))


def _named(folder: Path, named: str) -> Path:
    """The file that a folder's settings name; it may have moved along with the folder."""
    places = [folder / named, folder.parent / named, folder.parent / Path(named).name, Path(named)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(f"{folder / 'config.json'}: no file {named} here; the weights would fit as {folder / WEIGHTS}")
    return found


def _read_tensor(folder: Path, tokenizer: PreTrainedTokenizerBase, entries: int) -> np.ndarray:
    path, vocabulary = folder / WEIGHTS, tokenizer_vocabulary(tokenizer)
    try:
        weights = load_file(path)["weight"].astype(np.float32)
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{path}: no safetensors with a tensor named weight") from error
    own = tokenizer_vocabulary(load_tokenizer(folder))
    other = next((row for row, token in enumerate(vocabulary) if own[row : row + 1] != [token]), None)
    if other is not None:
        theirs = repr(own[other]) if other < len(own) else "nothing"
        raise UserError(
            f"{folder}: token {other} is {theirs} here and {vocabulary[other]!r} where passages are encoded: the "
            "weights are those of another tokenizer"
        )
    if weights.shape not in ((len(vocabulary),), (entries,)):
        raise UserError(f"{path}: a tensor of {list(weights.shape)} for a vocabulary of {len(vocabulary)} tokens")
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        token = vocabulary[bad[0]] if bad[0] < len(vocabulary) else f"row {bad[0]}"
        raise UserError(f"{path}: the weight of {token!r} is {weights[bad[0]]}; a finite number >= 0 is needed")
    return weights
