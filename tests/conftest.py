"""What every test runs under: no network, one torch thread, fixed seeds, no left-over Hydra state."""

import functools
import hashlib
import os
import random
import socket
import sys
from pathlib import Path

# Before anything is imported that reads them. Compiled measures live in the user's cache folder: compiling takes half a
# minute, and a cache inside the environment would go with every new one.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["OMP_NUM_THREADS"] = "1"  # torch, faiss and BLAS, here and in processes that tests start
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("NUMBA_CACHE_DIR", str(CACHE / "retrieval_kd" / "numba"))

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The folder of a tiny encoder; not to be written to."""
    from retrieval_kd.data.weights import build_tiny

    return build_tiny(tmp_path_factory.mktemp("tiny") / "encoder")


@pytest.fixture(scope="session")
def training_set(tmp_path_factory):
    """The lists of ``training_case``; not to be changed."""
    from training_case import make_training_set

    return make_training_set(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="session")
def irds(tmp_path_factory):
    """ir_datasets' home with the small files of ``irds_case``; it is read from the environment at the import."""
    from irds_case import make_home

    home = tmp_path_factory.mktemp("irds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IR_DATASETS_HOME", str(home))
        patch.setenv("IR_DATASETS_TMP", str(home / "tmp"))
        patch.setenv("IR_DATASETS_DL_DISABLE_PBAR", "true")
        for name in [name for name in sys.modules if name.partition(".")[0] == "ir_datasets"]:
            patch.delitem(sys.modules, name)
        yield make_home(home)


@pytest.fixture(scope="session", autouse=True)
def _composed_once(tmp_path_factory):
    """What Hydra composed for one of the processes that run the tests serves them all: it is a tenth of their work."""
    from retrieval_kd.data.files import atomic_file
    from retrieval_kd.pipeline import compose

    shared = tmp_path_factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else None
    select = compose._selected.__wrapped__

    @functools.cache
    def selected(root, selections):
        name = hashlib.sha256(repr((str(root), selections)).encode()).hexdigest()
        path = shared and shared / f"composed-{name}"
        if path and path.exists():
            return path.read_bytes()
        composed = select(root, selections)
        if path:
            with atomic_file(path) as temporary:
                temporary.write_bytes(composed)
        return composed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "_selected", selected)
        yield


@pytest.fixture(autouse=True)
def _fixed_seeds():
    """Of what is already imported only, so that tests without torch stay fast."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.set_num_threads(1)
        seed = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed
        seed(0)  # the first asks every kind of device, which takes longer than most tests


@pytest.fixture(autouse=True)
def _no_network(request, monkeypatch):
    """Refuse connections to other machines; processes of one test may still talk to each other."""
    if request.node.get_closest_marker("network"):
        return
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "localhost", "::1"):
            raise OSError(f"a test tried to reach {address[0]}; tests are offline")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _clean_hydra():
    yield
    hydra = sys.modules.get("hydra.core.global_hydra")
    if hydra is not None:
        hydra.GlobalHydra.instance().clear()
