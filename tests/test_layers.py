"""The architecture, read from the source: what imports what, and what is never done."""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from graphlib import TopologicalSorter
from pathlib import Path

import metaselect

ROOT = Path(metaselect.__file__).parent
LAYERS = (
    {"errors", "signals", "text"},
    {"records", "ranks"},
    {"options", "random", "torchrun", "memory"},
    {"data_options"},
    {"registry", "factories"},
    {"run"},
    {"data"},
    {"annotation"},
    {"metrics"},
    {"encoders"},
    {"models"},
    {"metagrad"},
    {"reweighting", "selection"},
    {"planning"},
    {"training"},
    {"features"},
    {"web"},
    {"report"},
    {"stages"},
    {"cli", "api"},
)
"""From the bottom; a module imports from its own layer's package, or from lower ones."""
PURE = (
    "planning",
    "selection",
    "reweighting",
    "models",
    "metagrad",
    "features.near_duplicates",
    "features.per_sample_gradients",
    "features.projections",
    "metrics",
)
TORCH_FREE = (
    *(
        "errors",
        "text",
        "records",
        "memory",
        "ranks",
        "torchrun",
        "options",
        "data_options",
        "random",
        "registry",
        "factories",
        "run",
        "data",
        "annotation",
        "web",
        "report",
        "cli",
    ),
    *(
        "stages.status",
        "stages.freshness",
        "stages.compare",
        "stages.gate",
        "stages.table",
        "stages.annotate",
        "stages.ingest",
        "stages.corrupt",
        "stages.split",
        "stages.rerun",
        "stages.model_choice",
        "stages.wrong_labels",
    ),
    *("stages.explain", "stages.select.discard"),
    *("planning.forecast", "planning.measured"),
    *("api.frames", "api.tables"),
)
MOST_LINES, MOST_MODULES = 300, 14  # of a module, and of a folder without its ``__init__``
LONG_FILES: dict[str, str] = {}
"""Modules over ``MOST_LINES``, each with the reason why it is better in one piece."""
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "joblib", "marshal"}
UNSAFE_CALLS = {"eval", "exec", "torch.load", "torch.save", "__import__"}
SAFE_CALLS = re.compile(r"torch\.load\(.*, weights_only=True\)")


def name_of(path: Path) -> str:
    """The module's name below the package: "cli.main"; empty for the package itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULE_FILES = sorted(ROOT.rglob("*.py"))
TREES = {name_of(path): ast.parse(path.read_text()) for path in MODULE_FILES}
MODULES = sorted(name for name in TREES if name not in ("", "__main__"))


def is_below(module: str, places: Sequence[str]) -> bool:
    """Whether a module is one of these, or lies in one of these packages."""
    return any(module == place or module.startswith(f"{place}.") for place in places)


def layer_of(module: str) -> int:
    top = module.split(".")[0]
    return next(level for level, names in enumerate(LAYERS) if top in names)


def imports(tree: ast.AST, *, in_functions: bool = True, for_types: bool = True) -> Iterator[str]:
    """Names of imported modules (and "module.name" of what is taken from them).

    Args:
        tree: a module.
        in_functions: those inside functions too.
        for_types: those that only type checkers see too.
    """
    for node in ast.iter_child_nodes(tree):
        called_later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing_alone = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif (in_functions or not called_later) and (for_types or not typing_alone):
            yield from imports(node, in_functions=in_functions, for_types=for_types)


def own_imports(module: str, *, in_functions: bool = True, for_types: bool = True) -> set[str]:
    """Modules of this project that a module imports."""
    found = set()
    for name in imports(TREES[module], in_functions=in_functions, for_types=for_types):
        if name.startswith("metaselect."):
            inner = name.removeprefix("metaselect.")
            found.add(inner if inner in TREES else inner.rpartition(".")[0])
    return found - {"", module}


def loaded_with(module: str) -> set[str]:
    """Every module that importing this one imports, by following what stands at module level."""
    reached: set[str] = set()
    ahead = [module]
    while ahead:
        here = ahead.pop()
        parents = {here.rsplit(".", count)[0] for count in range(1, here.count(".") + 1)}
        for name in {here, *parents} - reached:
            reached.add(name)
            ahead += own_imports(name, in_functions=False, for_types=False)
    return {name for one in reached for name in imports(TREES[one], in_functions=False, for_types=False)}


def called(tree: ast.AST) -> set[str]:
    """Every name that is called, but for ``SAFE_CALLS``: "print", "torch.save"."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {ast.unparse(node.func) for node in calls if not SAFE_CALLS.fullmatch(ast.unparse(node))}


def first_names(names: Iterable[str]) -> set[str]:
    """The packages of modules: "torch" of "torch.nn"."""
    return {name.split(".")[0] for name in names}


def test_every_module_has_a_layer_and_every_name_a_module() -> None:
    assert first_names(MODULES) == set().union(*LAYERS)
    named = {*PURE, *TORCH_FREE, *LONG_FILES}
    assert named - set(TREES) == set()


def test_imports_only_go_down() -> None:
    upwards = [
        f"{module} imports {other}"
        for module in MODULES
        for other in own_imports(module)
        if other.split(".")[0] != module.split(".")[0] and layer_of(other) >= layer_of(module)
    ]
    assert upwards == []


def test_there_are_no_circles() -> None:
    """Also within a layer, and with the imports inside functions; static_order raises CycleError with the circle."""
    graph = {module: own_imports(module, for_types=False) for module in MODULES}
    assert set(TopologicalSorter(graph).static_order()) >= set(MODULES)


def test_torch_is_only_imported_where_it_is_needed() -> None:
    light = [module for module in MODULES if is_below(module, TORCH_FREE)]
    heavy = {
        module: first_names(loaded_with(module)) & {"torch", "torchvision", "safetensors"} for module in light
    }
    assert light
    assert {module: names for module, names in heavy.items() if names} == {}


def test_methods_see_tensors_only() -> None:
    pure = [module for module in MODULES if is_below(module, PURE)]
    faults = {}
    for module in pure:
        names = set(imports(TREES[module]))
        faults[module] = first_names(names) & {"pathlib", "pandas", "os", "pyarrow", "rich", "typer"}
        faults[module] |= {name for name in names if name.startswith("torch.distributed")}
        faults[module] |= called(TREES[module]) & {"print"}
    assert pure
    assert {module: names for module, names in faults.items() if names} == {}


def test_nothing_from_a_file_is_ever_run() -> None:
    faults = {}
    for module, tree in TREES.items():
        faults[module] = first_names(imports(tree)) & UNSAFE_MODULES | called(tree) & UNSAFE_CALLS
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.keyword)
                and node.arg == "allow_pickle"
                and ast.unparse(node.value) != "False"
            ):
                faults[module].add("allow_pickle")
    assert {module: names for module, names in faults.items() if names} == {}


def test_only_the_command_line_prints() -> None:
    faults = {
        module: called(TREES[module]) & {"print", "typer.echo", "sys.exit", "warnings.warn"}
        for module in MODULES
        if not module.startswith("cli.")
    }
    assert {module: names for module, names in faults.items() if names} == {}


def test_files_are_short() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in MODULE_FILES}
    long = {name for name, lines in lengths.items() if lines > MOST_LINES}
    assert long == set(LONG_FILES), {name: lengths[name] for name in long ^ set(LONG_FILES)}


def test_folders_are_small() -> None:
    sizes = Counter(
        path.parent.relative_to(ROOT).as_posix() for path in MODULE_FILES if path.stem != "__init__"
    )
    assert {folder: count for folder, count in sizes.items() if count > MOST_MODULES} == {}
