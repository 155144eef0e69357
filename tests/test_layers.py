"""The architecture, read from the source: what imports what, and what is never done."""

import ast
from collections.abc import Iterator, Sequence
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import metaselect

ROOT = Path(metaselect.__file__).parent
LAYERS = (
    {"errors"},
    {"records"},
    {"options", "random"},
    {"registry"},
    {"run"},
    {"data"},
    {"annotation"},
    {"metrics"},
    {"models"},
    {"metagrad"},
    {"reweighting", "selection"},
    {"training"},
    {"features"},
    {"web"},
    {"stages"},
    {"cli"},
)
"""From the bottom; a module imports from its own layer's package, or from lower ones."""
PURE = (
    "selection",
    "reweighting",
    "models",
    "metagrad",
    "features.per_sample_gradients",
    "features.projections",
    "metrics",
)
TORCH_FREE = (
    *("errors", "records", "options", "random", "registry", "run", "data", "annotation", "web", "cli"),
    *(
        "stages.status",
        "stages.freshness",
        "stages.annotate",
        "stages.ingest",
        "stages.corrupt",
        "stages.rerun",
    ),
    *("stages.select.explain", "stages.select.discard"),
)
LONG_FILES: dict[str, str] = {}
"""Modules over 300 lines, each with the reason why it is better in one piece."""


def name_of(path: Path) -> str:
    """The module's name below the package: "cli.main"; empty for the package itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


TREES = {name_of(path): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}
MODULES = sorted(name for name in TREES if name not in ("", "__main__"))


def is_below(module: str, places: Sequence[str]) -> bool:
    """Whether a module is one of these, or lies in one of these packages."""
    return any(module == place or module.startswith(f"{place}.") for place in places)


def layer_of(module: str) -> int:
    top = module.split(".")[0]
    return next(level for level, names in enumerate(LAYERS) if top in names)


def imports(tree: ast.AST, *, when_called: bool = True) -> Iterator[str]:
    """Names of imported modules (and "module.name" of what is taken from them).

    Args:
        tree: a module.
        when_called: those inside functions too. What only type checkers see is left out without them.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not when_called and later(node):
            continue
        else:
            yield from imports(node, when_called=when_called)


def later(node: ast.AST) -> bool:
    """Whether what stands inside runs only when it is called, or only for type checkers."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def own_imports(module: str, *, when_called: bool = True) -> set[str]:
    """Modules of this project that a module imports."""
    found = set()
    for name in imports(TREES[module], when_called=when_called):
        if name.startswith("metaselect."):
            inner = name.removeprefix("metaselect.")
            found.add(inner if inner in TREES else inner.rpartition(".")[0])
    return found - {"", module}


def top_level(module: str) -> set[str]:
    """Every module that importing this one imports, by following what stands at module level."""
    reached, ahead = set(), [module]
    while ahead:
        here = ahead.pop()
        parents = {here.rsplit(".", count)[0] for count in range(1, here.count(".") + 1)}
        for name in {here, *parents} - reached:
            reached.add(name)
            ahead += own_imports(name, when_called=False)
    return {name for one in reached for name in imports(TREES[one], when_called=False)}


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_down(module: str) -> None:
    level = layer_of(module)
    for other in own_imports(module):
        same_package = other.split(".")[0] == module.split(".")[0]
        assert same_package or layer_of(other) < level, f"{module} imports {other}"


def test_every_module_has_a_layer() -> None:
    tops = {module.split(".")[0] for module in MODULES}
    assert tops == set().union(*LAYERS)


def test_there_are_no_cycles() -> None:
    """Also within a layer; static_order raises CycleError with the cycle."""
    graph = {module: own_imports(module, when_called=False) for module in MODULES}
    assert set(TopologicalSorter(graph).static_order()) >= set(MODULES)


@pytest.mark.parametrize(
    "module",
    [name for name in MODULES if is_below(name, TORCH_FREE)],
)
def test_torch_is_only_imported_where_it_is_needed(module: str) -> None:
    heavy = {name.split(".")[0] for name in top_level(module)} & {"torch", "torchvision", "safetensors"}
    assert heavy == set()


@pytest.mark.parametrize("module", [name for name in MODULES if is_below(name, PURE)])
def test_methods_see_tensors_only(module: str) -> None:
    names = {name.split(".")[0] for name in imports(TREES[module])}
    assert names & {"pathlib", "pandas", "os", "pyarrow", "rich", "typer"} == set()
    assert not any(name.startswith("torch.distributed") for name in imports(TREES[module]))
    assert "print" not in called(TREES[module])


def called(tree: ast.AST) -> set[str]:
    """Every name that is called: "print", "torch.load"."""
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("module", sorted(TREES))
def test_nothing_from_a_file_is_ever_run(module: str) -> None:
    names = set(imports(TREES[module]))
    assert {name.split(".")[0] for name in names} & {
        "pickle",
        "cPickle",
        "dill",
        "joblib",
        "marshal",
    } == set()
    assert called(TREES[module]) & {"eval", "exec", "torch.load", "torch.save", "__import__"} == set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert ast.unparse(node.value) == "False"


@pytest.mark.parametrize("module", MODULES)
def test_only_the_command_line_prints(module: str) -> None:
    if not module.startswith("cli."):
        assert called(TREES[module]) & {"print", "typer.echo", "sys.exit", "warnings.warn"} == set()


def test_files_are_short() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}
    long = {name for name, lines in lengths.items() if lines > 300}
    assert long == set(LONG_FILES), {name: lengths[name] for name in long ^ set(LONG_FILES)}
