"""The files that every kind of sentence-transformers folder is made of.

They are written here, not by that library, so exporting needs nothing installed; the tests hold them against what
release 6.2 reads and saves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from retrieval_kd.contracts import Side, UserError

# The release whose format this is; the library warns when it reads a folder of a later one.
FORMAT = "6.2.0"
TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
DENSE = "sentence_transformers.base.modules.dense.Dense"
NORMALIZE = "sentence_transformers.base.modules.normalize.Normalize"
ROUTER = "sentence_transformers.base.modules.router.Router"
WEIGHTS = "model.safetensors"
# A passage is called a document there.
ROUTES = {Side.QUERY: "query", Side.PASSAGE: "document"}


class SideSettings(Protocol):
    """What an encoder does before it reads the texts of one side."""

    @property
    def prompt(self) -> str:
        """Put in front of each text, as it is."""

    @property
    def max_length(self) -> int:
        """Tokens kept, prompt and special tokens included."""


def write_transformer_settings(folder: Path, settings: Mapping[str, Any], masked: bool = False) -> None:
    """Write which output the modules behind an encoder read: token states, or the logits of a masked language model."""
    text = {"method": "forward", "method_output_name": "logits" if masked else "last_hidden_state"}
    content = {
        "transformer_task": "fill-mask" if masked else "feature-extraction",
        "modality_config": {"text": text},
        "module_output_name": "token_embeddings",
    }
    write_json(folder / "sentence_bert_config.json", content | dict(settings))


def write_projection(folder: Path, weight: Tensor, bias: Tensor | None = None) -> str:
    """Write one linear module from token states; its type."""
    outputs, width = weight.shape
    settings = {
        "in_features": width,
        "out_features": outputs,
        "bias": bias is not None,
        "activation_function": "torch.nn.modules.linear.Identity",
        "module_input_name": "token_embeddings",
        "module_output_name": "token_embeddings",
    }
    write_json(folder / "config.json", settings)
    write_tensors(folder / WEIGHTS, {"linear.weight": weight} | ({} if bias is None else {"linear.bias": bias}))
    return DENSE


def write_normalize(folder: Path, name: str) -> str:
    """Write what brings the vectors of that name to length one; its type."""
    write_json(folder / "config.json", {"module_input_name": name, "module_output_name": name})
    return NORMALIZE


def write_model(
    folder: Path, chain: Sequence[tuple[str, str]], prompts: Mapping[Side, str], model_type: str, similarity: str
) -> None:
    """Write what makes the folder a model of that library: the modules (folder and type) and how they are used."""
    versions = {"pytorch": version("torch"), "sentence_transformers": FORMAT, "transformers": version("transformers")}
    settings = {
        "__version__": versions,
        "default_prompt_name": None,
        "model_type": model_type,
        "prompts": {ROUTES[side]: prompts[side] for side in Side},
        "similarity_fn_name": similarity,
    }
    write_json(folder / "config_sentence_transformers.json", settings)
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(chain)]
    write_json(folder / "modules.json", modules)  # last: without it the folder is no model of that library


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Content of a file; an empty object where there is none."""
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error


def longest(encoder: Path, text: Mapping[str, Any]) -> int:
    """What that library cuts at: its own setting, else the tokenizer's, which may be endless, within the positions."""
    positions = int(read_json(encoder / "config.json").get("max_position_embeddings") or 512)
    tokenizer = read_json(encoder / "tokenizer_config.json").get("model_max_length") or positions
    return int(text.get("max_seq_length") or min(tokenizer, positions))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write float32 safetensors."""
    given = {name: value.detach().to("cpu", torch.float32).contiguous().clone() for name, value in tensors.items()}
    save_file(given, path, {"format": "pt"})
