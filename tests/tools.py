"""Development tools that a test needs and an environment may lack."""

import os
from importlib.util import find_spec

import pytest


def require(module: str) -> None:
    """Skip the calling test where a module is not installed; in CI, which installs all of them, fail it."""
    if find_spec(module) is None:
        message = f"This test needs {module}: pip install -e '.[dev]'"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
