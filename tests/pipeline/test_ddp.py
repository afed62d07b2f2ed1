"""Two processes that Lightning starts itself: what they did is known afterwards."""

import json

import pytest
from safetensors.torch import load_file

from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.run import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(small, ensemble, tmp_path_factory):
    """A training by one process, and one by two with the same batches."""
    place = tmp_path_factory.mktemp("ddp")
    same = (*small, *ensemble, "trainer.validate_every=2", "trainer.log_every=1")
    two = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true")
    return [
        train(compose([*same, *processes, f"output_dir={place / name}"]))
        for name, processes in (("one", ("trainer.precision=32-true",)), ("two", two))
    ]


def test_what_two_processes_did_is_recorded(folders):
    one, two = (json.loads((folder / "metrics.json").read_text())["cost"] for folder in folders)
    assert two["train_steps"] == one["train_steps"] > 0
    assert two["train_seconds"] > 0
    assert two["train_passages"] >= one["train_passages"] > 0  # a passage of both shares is forwarded in both
    steps = (folders[1] / "log.csv").read_text().splitlines()
    assert len(steps) > one["train_steps"]


def test_two_processes_learn(folders, small):
    start = train(compose([*small, "recipe=no_training", f"output_dir={folders[0].parent / 'start'}"]))
    before, after = ((one / "runs" / "things.test.trec").read_text() for one in (start, folders[1]))
    assert before != after
    weights = load_file(next((folders[1] / "model").rglob("model.safetensors")))
    assert all(value.isfinite().all() for value in weights.values())
