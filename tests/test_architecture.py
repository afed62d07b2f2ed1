"""The shape of the package, read from its source: layers point down, files stay small, importing does nothing."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "retrieval_kd"

# Top to bottom; packages on one line may not import each other.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"pipeline"},
    {"callbacks", "interop"},
    {"students", "teachers", "negatives", "pairs", "filters", "pacing", "objectives", "regularizers"},
    {"engines", "evaluation"},
    {"data"},
    {"functional"},
    {"contracts"},
]
HEIGHT = {name: -level for level, names in enumerate(LAYERS) for name in names}
LONGEST = 400
# What a module may not call while it is imported: libraries that load weights, compile or touch devices, functions of
# this package (classes may be made), and whatever reads files or changes the process for everybody.
HEAVY = {"torch", "transformers", "pytorch_lightning", "ranx", "faiss", "bm25s", "ir_datasets", "hydra", "wandb"}
SIDE_EFFECTS = {
    *("open", "exec", "eval", "input", "print", "__import__", "import_module", "read_text", "read_bytes", "write_text"),
    *("mkdir", "connect", "urlopen", "run", "Popen", "setdefault", "putenv", "basicConfig", "filterwarnings"),
    *("simplefilter", "seed", "load", "from_pretrained"),
}


@cache
def modules(root: Path) -> list[tuple[Path, ast.Module]]:
    paths = sorted((root / PACKAGE).rglob("*.py"))
    return [(path.relative_to(root), ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


def layer(path: Path) -> str:
    """Name below the package: ``retrieval_kd/data/files.py`` is of ``data``."""
    return path.parts[1].removesuffix(".py")


def imported(tree: ast.Module, path: Path) -> Iterator[tuple[int, str]]:
    """Every module that is imported anywhere in a file, inside functions and for types too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = path.with_suffix("").parts[: -node.level] if node.level else ()
            base = ".".join([*origin, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def wrong_imports(root: Path) -> list[str]:
    found = []
    for path, tree in modules(root):
        own = layer(path)
        for line, name in imported(tree, path):
            parts = name.split(".")
            if parts[0] in ("experiments", "benchmarks", "tests"):
                found.append(f"{path}:{line} imports {name}, which imports the package")
            if parts[0] != PACKAGE or len(parts) == 1 or own == "__init__":
                continue
            if parts[1] not in HEIGHT:
                found.append(f"{path}:{line} imports {name}, which is in no layer")
            elif parts[1] != own and HEIGHT[parts[1]] >= HEIGHT.get(own, -len(LAYERS)):
                found.append(f"{path}:{line} {own} imports {name}, which is not below it")
    return found


def unknown_layers(root: Path) -> list[str]:
    return sorted({layer(path) for path, _ in modules(root)} - set(HEIGHT) - {"__init__"})


def busy_initialisers(root: Path) -> list[str]:
    return [
        str(path)
        for path, tree in modules(root)
        if path.name == "__init__.py" and (len(tree.body) != 1 or ast.get_docstring(tree) is None)
    ]


def prints(root: Path) -> list[str]:
    return [
        f"{path}:{node.lineno}"
        for path, tree in modules(root)
        if layer(path) not in ("cli", "__main__")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def long_files(root: Path) -> list[str]:
    return [
        f"{path.relative_to(root)}: {lines} lines"
        for path in sorted((root / PACKAGE).rglob("*.py"))
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST
    ]


def without_docstring(root: Path) -> list[str]:
    return [str(path) for path, tree in modules(root) if ast.get_docstring(tree) is None]


def run_at_import(nodes: list[ast.stmt]) -> Iterator[ast.AST]:
    """What is evaluated when a module is imported: no bodies of functions, no decorators, no main guard."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        elif isinstance(node, ast.ClassDef):
            yield from run_at_import(node.body)
        elif not (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)):
            yield node


def not_to_be_called(tree: ast.Module) -> set[str]:
    """Names of a module that stand for heavy libraries and for functions of this package."""
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            origin = getattr(node, "module", None) or (PACKAGE if isinstance(node, ast.ImportFrom) else "")
            for alias in node.names:
                library = (origin or alias.name).split(".")[0]
                own_function = library == PACKAGE and alias.name[0].islower()
                if library in HEAVY or own_function:
                    names.add((alias.asname or alias.name).split(".")[0])
    return names


def busy_imports(root: Path) -> list[str]:
    found = []
    for path, tree in modules(root):
        forbidden = not_to_be_called(tree)
        for start in run_at_import(tree.body):
            if isinstance(start, ast.For | ast.While | ast.With):
                found.append(f"{path}:{start.lineno} loops or opens something at import")
            for node in ast.walk(start):
                if isinstance(node, ast.Call):
                    name = ast.unparse(node.func)
                    if name.split(".")[0] in forbidden or name.split(".")[-1] in SIDE_EFFECTS:
                        found.append(f"{path}:{node.lineno} calls {name} at import")
                elif isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("os.environ", "sys.modules"):
                    found.append(f"{path}:{node.lineno} uses {ast.unparse(node.value)} at import")
    return found


CHECKS = [
    wrong_imports,
    unknown_layers,
    busy_initialisers,
    prints,
    long_files,
    without_docstring,
    busy_imports,
]


@pytest.mark.parametrize("check", CHECKS)
def test_package(check):
    assert check(ROOT) == []


def test_nothing_in_conf_but_data():
    assert [str(path) for path in (ROOT / "conf").rglob("*") if path.is_file() and path.suffix != ".yaml"] == []


# The checks themselves, on a small tree that is right and then wrong in one place.

RIGHT = {
    "__init__.py": '"""Package."""\n',
    "contracts.py": '"""Types."""\nfrom typing import TypeVar\nT = TypeVar("T")\n',
    "data/__init__.py": '"""Data."""\n',
    "data/files.py": '"""Files."""\nfrom retrieval_kd.contracts import T\n',
    "data/folder.py": '"""Folder."""\nfrom retrieval_kd.data.files import T\nfrom .files import T\n',
    "engines/flat.py": '"""Flat."""\nimport torch\n@torch.no_grad()\ndef f(a=frozenset()):\n    torch.seed()\n',
    "filters/none.py": '"""None."""\nfrom retrieval_kd.engines import flat\nA = {a.lower(): 1 for a in "AB"}\n',
    "cli/main.py": '"""Main."""\nfrom retrieval_kd.data import files\ndef main():\n    print(files)\n'
    'if __name__ == "__main__":\n    main()\n',
}


def tree_with(folder, changes):
    for name, text in {**RIGHT, **changes}.items():
        path = folder / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize("check", CHECKS)
def test_checks_accept_what_is_right(tmp_path, check):
    assert check(tree_with(tmp_path, {})) == []


@pytest.mark.parametrize(
    ("check", "name", "text", "says"),
    [
        (wrong_imports, "data/up.py", "from retrieval_kd.engines import flat", "not below"),
        (wrong_imports, "data/up.py", "import retrieval_kd.engines.flat", "not below"),
        (wrong_imports, "data/up.py", "from retrieval_kd import engines", "not below"),
        (wrong_imports, "data/up.py", "from ..engines import flat", "not below"),
        (wrong_imports, "data/up.py", "def f():\n    from retrieval_kd.cli import main", "not below"),
        (wrong_imports, "filters/x.py", "from retrieval_kd.teachers import y", "not below"),
        (wrong_imports, "evaluation/x.py", "from retrieval_kd.engines import flat", "not below"),
        (wrong_imports, "contracts.py", "from retrieval_kd.data import files", "not below"),
        (wrong_imports, "data/up.py", "from retrieval_kd.helpers import y", "in no layer"),
        (wrong_imports, "cli/x.py", "import experiments.quickstart", "imports the package"),
        (unknown_layers, "helpers/x.py", "", "helpers"),
        (unknown_layers, "helpers.py", "", "helpers"),
        (busy_initialisers, "data/__init__.py", '"""Data."""\nfrom retrieval_kd.data.files import T', "data/__init__"),
        (busy_initialisers, "data/__init__.py", "", "data/__init__"),
        (prints, "data/x.py", 'def f():\n    print("x")', "x.py:2"),
        (long_files, "data/x.py", "\n" * 401, "401 lines"),
        (without_docstring, "data/x.py", "a = 1", "x.py"),
        (busy_imports, "data/x.py", "import torch\ntorch.set_num_threads(1)", "set_num_threads"),
        (busy_imports, "data/x.py", "from transformers import A\nB = A.of()", "A.of"),
        (busy_imports, "data/x.py", "def f():\n    pass\nA = f()", "calls f"),
        (busy_imports, "data/x.py", "from retrieval_kd.data.files import f\nA = [f()]", "calls f"),
        (busy_imports, "data/x.py", "from pathlib import Path\nclass A:\n    a = Path().read_text()", "read_text"),
        (busy_imports, "data/x.py", "def f(a=open('x')):\n    pass", "open"),
        (busy_imports, "data/x.py", "try:\n    open('x')\nexcept OSError:\n    pass", "open"),
        (busy_imports, "data/x.py", "import os\nos.environ['A'] = '1'", "os.environ"),
        (busy_imports, "data/x.py", "for a in []:\n    pass", "loops"),
    ],
)
def test_checks_find_what_is_wrong(tmp_path, check, name, text, says):
    found = check(tree_with(tmp_path, {name: text}))
    assert any(says in line for line in found), found
