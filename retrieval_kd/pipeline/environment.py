"""What a result came about on: hardware, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "pytorch-lightning", "hydra-core", "faiss-cpu", "faiss-gpu", "ranx", "bm25s")


def environment() -> dict[str, Any]:
    """The machine, the versions and the commit, as a step records them when it is made."""
    return {"commit": _commit(), "hardware": hardware(), "versions": _versions()}


def machine() -> dict[str, Any]:
    """What is known of the machine without asking for accelerators."""
    return {"machine": platform.machine(), "processor": _processor(), "cores": os.cpu_count()}


def hardware() -> dict[str, Any]:
    """The machine, and the accelerator that this process has used."""
    torch = sys.modules.get("torch")  # nothing was computed on an accelerator if it was never imported
    gpu = torch is not None and torch.cuda.is_available()
    accelerator = torch.cuda.get_device_name() if torch is not None and gpu else "cpu"
    return {**machine(), "accelerator": accelerator}


@cache
def _processor() -> str:
    """Its model, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def _commit() -> str | None:
    """The checkout's commit, where there is one; with a + where files were changed since."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    return (commit + ("+" if _git(root, "status", "--porcelain", "-uno") else "")) or None


def _git(root: Path, *arguments: str) -> str:
    found = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return found.stdout.strip()
