"""A sample of the trials of ``kill_harness``, one of each command.

The harness needs a process without threads, from which it forks; so it runs in one of its own.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import environment


@pytest.mark.slow
def test_commands_that_are_killed_or_without_disk_end_in_the_same_bytes() -> None:
    harness = Path(__file__).with_name("kill_harness.py")
    done = subprocess.run(
        [sys.executable, str(harness), "--trials", "28"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "28 trials, 0 broken" in done.stdout
