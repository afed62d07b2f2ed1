"""Checkpoints and libraries that several of these tests use."""

import pytest


@pytest.fixture
def library():
    return pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")


@pytest.fixture(scope="session")
def with_head(tiny, tmp_path_factory):
    """A checkpoint whose head is its own and whose decoder is tied; not to be written to."""
    from sparse_students import make_checkpoint

    return make_checkpoint(tiny, tmp_path_factory.mktemp("sparse") / "tied")


@pytest.fixture(scope="session")
def untied(tiny, tmp_path_factory):
    """The same with a decoder of its own."""
    from sparse_students import make_checkpoint

    return make_checkpoint(tiny, tmp_path_factory.mktemp("sparse") / "untied", tied=False)
