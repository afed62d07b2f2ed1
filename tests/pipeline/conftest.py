"""A collection of 30 passages with train, dev and test judgements, and one store that all tests of a session share."""

import json
import logging
import shutil

import numpy as np
import pytest

from retrieval_kd.data.files import atomic_folder
from retrieval_kd.data.weights import TINY_WORDS

SPLITS = {"train": range(12), "dev": range(12, 16), "test": range(16, 24)}


def write_folder(folder, seed=1, passages=30):
    """Query i is four words of passage i, which is judged 2; passage i + 1 is judged 1 for every third query."""
    generator = np.random.default_rng(seed)
    words = TINY_WORDS.split()
    texts = [" ".join(generator.choice(words, 14)) for _ in range(passages)]
    (folder / "qrels").mkdir(parents=True)
    corpus = [json.dumps({"_id": f"p{row}", "title": f"t{row}", "text": text}) for row, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("\n".join(corpus) + "\n")
    queries = [json.dumps({"_id": f"q{row}", "text": " ".join(texts[row].split()[3:7])}) for row in range(24)]
    (folder / "queries.jsonl").write_text("\n".join(queries) + "\n")
    for split, rows in SPLITS.items():
        judged = [f"q{row}\tp{row}\t2" for row in rows] + [f"q{row}\tp{row + 1}\t1" for row in rows if row % 3 == 0]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    return folder


@pytest.fixture(scope="session")
def things(tmp_path_factory):
    """The collection's folder; not to be written to."""
    return write_folder(tmp_path_factory.mktemp("collections") / "things")


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """The same passages and queries, and no judgements."""
    folder = write_folder(tmp_path_factory.mktemp("collections") / "bare")
    shutil.rmtree(folder / "qrels")
    return folder


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Artifacts of all tests that do not count them."""
    return tmp_path_factory.mktemp("store")


SMALL = (
    "encoder=tiny",
    "trainer.batch_size=4",
    "trainer.max_steps=3",
    "trainer.precision=32-true",
    "negatives.pool=6",
    "negatives.per_query=3",
    "negatives.window=[1,12]",
    "student.passage.max_length=24",
    "evaluation.measures=[ndcg@10,recall@100]",
)
TINY_MEMBER = (
    "teacher.members.minilm.encoder.encoder.name=tiny",
    "teacher.members.minilm.encoder.inference.precision=fp32",
)


@pytest.fixture(scope="session")
def small(things, store):
    """Overrides of a training that takes a second: three steps of four queries with lists of four."""
    return ("data=folder", f"data.path={things}", f"store={store}", *SMALL)


@pytest.fixture(scope="session")
def ensemble():
    """What makes the members of the default teacher small."""
    return TINY_MEMBER


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """Runs a command line in a folder of its own: its code, its standard output, the lines of standard error."""
    from retrieval_kd.cli.main import main

    monkeypatch.chdir(tmp_path)
    root, own = logging.getLogger(), logging.getLogger("retrieval_kd")
    handlers, level = root.handlers[:], own.level

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return code, told.out, told.err.splitlines()

    yield run
    root.handlers[:] = handlers
    own.setLevel(level)


@pytest.fixture
def written(monkeypatch):
    """Names of the steps that were written, in their order."""
    from retrieval_kd.pipeline import artifacts

    names = []

    def counted(path):
        names.append(path.parent.name)
        return atomic_folder(path)

    monkeypatch.setattr(artifacts, "atomic_folder", counted)
    return names


@pytest.fixture(scope="session")
def trained(small, ensemble, tmp_path_factory):
    """The run's folder of the default objective and teacher."""
    from run_case import go

    folder = tmp_path_factory.mktemp("runs") / "default"
    assert go(*small, *ensemble, "trainer.log_every=1", f"output_dir={folder}") == folder
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"
