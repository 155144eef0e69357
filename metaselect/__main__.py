"""Where the program starts: ``python -m metaselect`` and the console script."""

from metaselect.signals import end_at_once


def run() -> int:
    """Run the command line; returns the exit code."""
    end_at_once()
    from metaselect.cli.main import main  # takes most of the time of a short command

    return main()


if __name__ == "__main__":
    raise SystemExit(run())
