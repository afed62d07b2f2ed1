"""A tokenizer's files as other libraries must find them to make the tokens that we make."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from transformers import AddedToken, PreTrainedTokenizerBase

from retrieval_kd.interop.module_files import read_json, write_json

# Private use, so no text has them: only the size of the vocabulary is wanted.
FILLER = "\U0010fffd{}"


def write_tokenizer(
    folder: Path, tokenizer: PreTrainedTokenizerBase, max_length: int, entries: int = 0, spelled: Sequence[str] = ()
) -> None:
    """Write a copy that cuts at ``max_length`` and reads text that spells a special token as ordinary text.

    Args:
        folder: Where to; made if it is missing.
        tokenizer: Not changed.
        max_length: Tokens kept.
        entries: Size that the vocabulary is filled up to, where another file has a row for each of its entries.
        spelled: Tokens that prompts spell, and that are to be found there.
    """
    written = copy.deepcopy(tokenizer)
    written.model_max_length = max_length
    written.split_special_tokens = True
    written.init_kwargs["split_special_tokens"] = True  # what is saved are these, with today's values
    backend = getattr(written, "backend_tokenizer", None)
    if backend is not None:  # or the last batch's padding would be written along, and equal students would differ
        backend.no_padding()
        backend.no_truncation()
    missing = entries - len(written.get_vocab())
    if missing > 0:
        written.add_tokens([FILLER.format(i) for i in range(missing)])
    written.add_tokens([AddedToken(token, special=False, normalized=False) for token in spelled])
    folder.mkdir(parents=True, exist_ok=True)
    written.save_pretrained(folder)
    if spelled:
        _make_ordinary(folder, spelled)


def _make_ordinary(folder: Path, tokens: Sequence[str]) -> None:
    """A token that was special stays it in memory, and would not be found in a prompt."""
    content = read_json(folder / "tokenizer.json")
    for entry in content["added_tokens"]:
        if entry["content"] in tokens:
            entry["special"] = False
    write_json(folder / "tokenizer.json", content)
