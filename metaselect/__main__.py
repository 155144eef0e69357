"""``python -m metaselect`` is the same as the console script."""

from metaselect.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
