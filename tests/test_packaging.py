"""What is shipped and what is locked: the wheel, the lock, the targets, the version."""

import ast
import email
import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    builder = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    [path] = builder.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_wheel_holds_the_package_and_every_option(wheel):
    names = set(wheel.namelist())
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "retrieval_kd").rglob("*.py")}
    options = {f"retrieval_kd/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert options
    assert code | options <= names
    assert {name.split("/")[0] for name in names} == {"retrieval_kd", f"retrieval_kd-{PROJECT['version']}.dist-info"}


def test_wheel_says_what_it_is(wheel):
    folder = f"retrieval_kd-{PROJECT['version']}.dist-info"
    metadata = email.message_from_bytes(wheel.read(f"{folder}/METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert wheel.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "retrieval-kd = retrieval_kd.cli.main:main" in wheel.read(f"{folder}/entry_points.txt").decode()
    always = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    assert not [need.name for need in always if need.marker is None and need.name.startswith("faiss")]


def test_command_points_at_a_function():
    for target in PROJECT["scripts"].values():
        module, function = target.split(":")
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_lock_satisfies_every_requirement():
    needs = [Requirement(text) for text in PROJECT["dependencies"]]
    needs += [Requirement(text) for extra in PROJECT["optional-dependencies"].values() for text in extra]
    for need in needs:
        name = need.name.lower().replace("_", "-")
        assert name in LOCK, f"{name} is not in constraints.txt: make lock"
        assert need.specifier.contains(LOCK[name]), f"{name}=={LOCK[name]} is locked, but {need} is required"


def test_the_embedded_collection_is_pinned():
    """Its passages are the docstrings of these packages: another version is another collection."""
    for text in PROJECT["optional-dependencies"]["quickstart"]:
        assert str(Requirement(text).specifier).startswith("=="), f"{text} must name one version"


def test_lock_names_versions_only():
    assert not [f"{name}=={version}" for name, version in LOCK.items() if "+" in version or "/" in version]


def test_every_target_is_listed_by_make():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    said = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert sorted(phony) == sorted(re.findall(r"^  (\S+) +\S", said, re.MULTILINE))


def test_version_is_the_same_everywhere():
    version = PROJECT["version"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[([\d.]+)\]", changes, re.MULTILINE)[0] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
