"""Where the program starts: ``python -m metaselect`` and the console script."""

import os

from metaselect import torchrun
from metaselect.signals import end_at_once

SPIN_COUNT = "10000"  # some tens of microseconds


def run() -> int:
    """Run the command line; returns the exit code."""
    torchrun.silence_others()
    end_at_once(torchrun.agreed_end)
    yield_cores()
    from metaselect.memory import FREED, keep_freed  # after the signals: it imports more than they need

    keep_freed(FREED)
    from metaselect.cli.main import main  # takes most of the time of a short command

    return torchrun.leave(main())


def yield_cores() -> None:
    """Have threads of OpenMP that wait for each other sleep soon, so that other processes get the cores.

    By default they keep a core busy for so long that two trainings on the same cores stop each other nearly
    (docs/measurements.md). No result depends on it. It must come before torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


if __name__ == "__main__":
    raise SystemExit(run())
