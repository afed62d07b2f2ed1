"""Any folder or name that ``model=`` may give, as a student."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrieval_kd.contracts import UserError
from retrieval_kd.data.weights import resolve_encoder
from retrieval_kd.interop import dense, late_interaction, sparse
from retrieval_kd.interop.late_layouts import METADATA, is_late_interaction
from retrieval_kd.interop.own_folder import SETTINGS, own_folder
from retrieval_kd.interop.sparse_layouts import is_sparse
from retrieval_kd.students.bi_encoder import BiEncoder
from retrieval_kd.students.late_interaction import LateInteraction
from retrieval_kd.students.sparse_encoder import SparseEncoder
from retrieval_kd.students.student import Inference, Student

OUR_READERS = "retrieval_kd.interop."
FILES = ["*.json", "*.txt", "*.model", "*.safetensors", METADATA]
LATE_FORMS = {
    None: late_interaction.write,
    "pylate": late_interaction.write_pylate,
    "stanford": late_interaction.write_stanford,
}


def read_model(name: str, student: Mapping[str, Any]) -> Student:
    """A student from a ``model/`` folder, a run's folder, a hub name or a local Hugging Face folder.

    ``student`` is the config's student node: its inference settings count always, the rest where the folder is silent.
    """
    folder = own_folder(name)
    if folder is None:
        found = Path(name) if (Path(name) / "modules.json").is_file() else _resolved(name)
        if is_sparse(found):
            return sparse.read_foreign(found, student)
        if is_late_interaction(found):
            return late_interaction.read_foreign(found, student)
        if "markers" in student:
            raise UserError(
                f"model={name}: neither a MultiVectorEncoder folder nor one of PyLate or Stanford's ColBERT; a"
                " checkpoint to start from is named by encoder.name (recipe=no_training evaluates it as it is)"
            )
        if "query_weights" in student:
            raise UserError(
                f"model={name}: neither a SparseEncoder folder nor a masked language model with idf.json; a checkpoint"
                " to start from is named by encoder.name (recipe=no_training evaluates it as it is)"
            )
        return dense.read_foreign(found, student)
    reader = json.loads((folder / SETTINGS).read_text()).get("reader", "")
    if not reader.startswith(OUR_READERS):
        raise UserError(f"{folder / SETTINGS}: reader {reader!r} is not one of ours ({OUR_READERS}*)")
    module, function = reader.rsplit(".", 1)
    read: Student = getattr(importlib.import_module(module), function)(folder, Inference(**student["inference"]))
    return read


def write_again(student: Student, folder: Path, form: str | None = None) -> None:
    """Write what ``read_model`` read, by the module that reads such students, or in a form of another library."""
    if form is not None and not isinstance(student, LateInteraction):
        raise UserError(f"format={form} is for late-interaction students, and this one is not; leave the format out")
    if isinstance(student, LateInteraction):
        LATE_FORMS[form](student, folder)
    elif isinstance(student, SparseEncoder):
        sparse.write(student, folder)
    elif isinstance(student, BiEncoder):
        dense.write(student, folder)
    else:
        raise UserError(f"{type(student).__name__}: no form of a folder is known for such students")


def _resolved(name: str) -> Path:
    """A folder also of what is on the hub: the settings that lie beside the weights count."""
    found = resolve_encoder(name)
    if isinstance(found, Path):
        return found
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(found, allow_patterns=FILES))
