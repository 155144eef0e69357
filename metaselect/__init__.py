"""MetaSelect: label-budgeted data cleaning, from a warm-up on bad labels to the proof of what a few bought.

The names below are for Python, in notebooks above all. Each is imported when it is first asked for (PEP 562), so that
``import metaselect`` and the command line import neither torch nor pandas nor scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaselect.api.classifier import MetaReweighter
    from metaselect.api.label_issues import find_label_issues
    from metaselect.api.select import select
    from metaselect.api.tables import RunTables, open_run
    from metaselect.errors import MetaSelectError

__version__ = "0.1.0"
__all__ = [
    "MetaReweighter",
    "MetaSelectError",
    "RunTables",
    "__version__",
    "find_label_issues",
    "open_run",
    "select",
]

_MODULES = {
    "MetaReweighter": "metaselect.api.classifier",
    "MetaSelectError": "metaselect.errors",
    "RunTables": "metaselect.api.tables",
    "find_label_issues": "metaselect.api.label_issues",
    "open_run": "metaselect.api.tables",
    "select": "metaselect.api.select",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
