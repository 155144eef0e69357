"""The distributions: what they hold, and that they work where the source tree is not."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from command_line import TRAIN, environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tools import require

import metaselect

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION = metaselect.__version__
TOP_LEVEL = {
    *(
        ".ci",
        ".gitignore",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "MANIFEST.in",
        "Makefile",
        "README.md",
        "SECURITY.md",
    ),
    *("benchmarks", "docs", "metaselect", "pyproject.toml", "sample_data", "tests"),
}
"""Every tracked file and folder at the top. A new one must be meant, so it is named here first."""
GENERATED = {"PKG-INFO", "setup.cfg", "metaselect.egg-info"}
"""What a source distribution has besides."""
LOCAL = (".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "build", "dist", "demo-run")
KINDS = ("wheel", "sdist")
DEPENDENCIES = [entry for entry in sys.path if entry.endswith("-packages")]
"""Folders of installed packages (site-packages; dist-packages on Debian)."""


def run(*words: object, cwd: Path, **more: str) -> str:
    """Standard output of a program that must succeed, run without the source tree on Python's path."""
    env = environment(**more)
    env.pop("PYTHONPATH", None)
    ended = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=cwd, env=env)
    assert ended.returncode == 0, f"{words}: {ended.stdout}\n{ended.stderr}"
    return ended.stdout


def tracked() -> set[str] | None:
    """Paths that git tracks, of files that are there; None outside of a git checkout (in an unpacked sdist)."""
    if not (ROOT / ".git").exists():
        return None
    names = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    return {name for name in names if name and (ROOT / name).is_file()}


def third_party(trees: Iterable[ast.AST]) -> set[str]:
    """Top-level names of imported modules that are neither Python's nor this project's."""
    names = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").split(".")[0])
    return names - set(sys.stdlib_module_names) - {"metaselect"}


def requirement_names(requirements: Iterable[str]) -> set[str]:
    return {re.split(r"[^\w.-]", text)[0].lower().replace("_", "-") for text in requirements}


def test_nothing_stray_is_at_the_top() -> None:
    paths = tracked()
    if paths is None:
        names = {entry.name for entry in ROOT.iterdir()} - GENERATED - {".venv", "build", "dist", "demo-run"}
        names = {name for name in names if not re.fullmatch(r"\..*_cache|\.hypothesis|__pycache__", name)}
    else:
        names = {path.split("/")[0] for path in paths}
    assert names == TOP_LEVEL


def test_every_imported_package_is_a_declared_dependency() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "metaselect").rglob("*.py")]
    providers = packages_distributions()
    extras = [
        each
        for extra in ("web", "excel", "heic", "encoders")
        for each in PROJECT["optional-dependencies"][extra]
    ]
    declared = requirement_names([*PROJECT["dependencies"], *extras])
    undeclared = {
        name
        for name in third_party(trees)
        if not declared & {provider.lower().replace("_", "-") for provider in providers.get(name, [name])}
    }
    assert undeclared == set()


def test_the_locked_versions_are_those_of_the_dependencies() -> None:
    """Every direct dependency but PyTorch's is locked to one version, which its lower bound allows."""
    lines = (ROOT / ".ci/constraints.txt").read_text(encoding="utf-8").splitlines()
    locked = dict(line.split("==") for line in lines if not line.startswith("#"))
    locked = {canonicalize_name(name): version for name, version in locked.items()}
    extras = [PROJECT["optional-dependencies"][name] for name in ("web", "excel", "encoders", "docs", "dev")]
    wanted = [Requirement(text) for text in [*PROJECT["dependencies"], *chain(*extras)]]
    free = {"torch", "torchvision", "metaselect", "setuptools"}  # pip freeze leaves setuptools out
    direct = {canonicalize_name(each.name): each for each in wanted if each.name not in free}
    assert {name for name, each in direct.items() if locked.get(name, "0") not in each.specifier} == set()
    assert not free & set(locked)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist, built from a copy of this tree, and the wheel, built from the sdist; by ``KINDS``."""
    require("build")
    folder = tmp_path_factory.mktemp("distributions")
    source = Path(shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*LOCAL)))
    # Without isolation: its setuptools is that of the environment, so nothing is downloaded.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", source, cwd=folder)
    wheel, sdist = (folder / f"dist/metaselect-{VERSION}{end}" for end in ("-py3-none-any.whl", ".tar.gz"))
    return {"wheel": wheel, "sdist": sdist}


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(distributions: dict[str, Path]) -> None:
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "metaselect").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(distributions["wheel"]) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"metaselect-{VERSION}.dist-info/METADATA").decode()
        licence = archive.read(f"metaselect-{VERSION}.dist-info/licenses/LICENSE").decode()
    assert {name for name in names if ".dist-info/" not in name} == package
    assert "metaselect/py.typed" in package
    assert all(any(name.endswith(f"/page.{kind}") for name in package) for kind in ("html", "css", "js"))
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "\nAuthor: MetaSelect contributors\n" in metadata
    assert f"\nRequires-Python: {PROJECT['requires-python']}\n" in metadata
    assert licence == (ROOT / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_sdist_holds_every_tracked_file(distributions: dict[str, Path]) -> None:
    with tarfile.open(distributions["sdist"]) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    own = {name for name in names if name.split("/")[0] not in GENERATED}
    paths = tracked()
    assert {name.split("/")[0] for name in own} == TOP_LEVEL
    assert paths is None or own == paths


@pytest.fixture(scope="module")
def installed(distributions: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By kind, an environment of its own in which one distribution is installed.

    Dependencies are those of the environment that runs the tests, by a path file: installing torch twice more would
    take minutes and gigabytes. Python does not follow path files in a folder that is itself named by one, so an
    editable installation of this project is not seen there.
    """
    places = {}
    for kind in KINDS:
        place = tmp_path_factory.mktemp(kind) / "env"
        venv.create(place, symlinks=True)
        (packages,) = place.glob("lib/python*/site-packages")
        (packages / "dependencies.pth").write_text("\n".join(DEPENDENCIES) + "\n")
        flags = ("--quiet", "--no-deps", "--no-index", "--ignore-installed", "--no-build-isolation")
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", place / "bin/python")
        run(*pip, "install", *flags, distributions[kind], cwd=place)
        places[kind] = place
    return places


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_installed_distribution_works(kind: str, installed: dict[str, Path], tmp_path: Path) -> None:
    place = installed[kind]
    where = run(place / "bin/python", "-c", "import metaselect; print(metaselect.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(place)
    program = place / "bin/metaselect"
    assert run(program, "--version", cwd=tmp_path) == f"metaselect {VERSION}\n"
    where_to = {"METASELECT_RUN": str(tmp_path / "run")}
    run(program, "ingest", TRAIN, "--limit", 40, cwd=tmp_path, **where_to)
    run(program, "warmup", "--epochs", 1, cwd=tmp_path, **where_to)
    run(program, "select", "--budget", 4, cwd=tmp_path, **where_to)
    run(program, "annotate", "export", "--format", "html", cwd=tmp_path, **where_to)  # takes page.html
    assert len((tmp_path / "run/select/round-1/selected.csv").read_text().splitlines()) == 5


@pytest.mark.slow
def test_the_tests_of_the_sdist_run(
    distributions: dict[str, Path], installed: dict[str, Path], tmp_path: Path
) -> None:
    """All are collected, so each finds what it imports; those of one file of each kind are run."""
    with tarfile.open(distributions["sdist"]) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    python = installed["sdist"] / "bin/python"
    few = "test_layers or test_metrics or test_packaging"
    pytest_here = (python, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow")
    assert " passed" in run(*pytest_here, "-k", few, cwd=source)


def test_generated_files_are_ignored() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert {".venv/", "build/", "dist/", "*.egg-info/"} <= set(ignored)
