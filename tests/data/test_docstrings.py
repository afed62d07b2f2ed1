import pytest

from retrieval_kd.data.docstrings import docstrings, source_files, split_docstring, without_name


def test_docstrings_of_every_kind_are_read(tmp_path):
    file = tmp_path / "m.py"
    file.write_text(
        '"""Module."""\nif True:\n    class A:\n        """one"""\n        async def f(self):\n            """two"""\n'
        'try:\n    def g():\n        def inner():\n            """three \\d"""\nexcept ImportError:\n'
        '    def h():\n        """four"""\nclass B:\n    def p(self):\n        """getter"""\n'
        '    def p(self, x):\n        """setter"""\n'
    )
    assert docstrings(file) == {
        "A": "one",
        "A.f": "two",
        "g.inner": "three \\d",
        "h": "four",
        "B.p": "getter",
    }


def test_source_that_is_not_python_is_left_out(tmp_path, caplog):
    file = tmp_path / "template.py"
    file.write_text('def {{name}}():\n    """No Python."""\n')
    assert docstrings(file) == {}
    assert "template.py" in caplog.text


def test_files_come_in_a_fixed_order_without_tests(tmp_path):
    for name in ("z.py", "b/y.py", "a/x.py", "a/tests/t.py", "a/__pycache__/x.py", "a/notes.txt", "tests.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert [file.relative_to(tmp_path).as_posix() for file in source_files(tmp_path)] == [
        "tests.py",
        "z.py",
        "a/x.py",
        "b/y.py",
    ]


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("Like nx.bfs_tree(G) or bfs_tree, not bfs_trees.", "bfs_tree", "Like (G) or , not bfs_trees."),
        ("pca().fit_transform(x)", "fit_transform", "pca()(x)"),
        ("Return the mean of means.", "mean", "Return the mean of means."),
        ("a.mean(), mean(b), `mean` and mean (so)", "mean", "(), (b), `` and mean (so)"),
        (">>> from a import mean\nthe mean", "mean", ">>> from a import \nthe mean"),
        ("KMeans is KMeansLike", "KMeans", " is KMeansLike"),
        ("mean", "absent", "mean"),
    ],
)
def test_without_name(text, name, expected):
    assert without_name(text, name) == expected


def test_split_docstring():
    docstring = """Compute :func:`~a.b.area_of`   of
        a ``polygon``.
    \t
        Notes
        -----
        %(params)s Second.

        >>> area_of(p)
        ...
        3
        """
    query, passage = split_docstring(docstring, "area_of")
    assert query == "Compute of a polygon."
    assert passage == "Notes Second. (p) 3"
