"""Several command lines, one after another, in the same processes: `torchrun ... tests/rank_commands.py FILE.json OUT`.

Then the results of ``rank_steps`` are written to OUT.
"""

import json
import sys
from pathlib import Path

import rank_steps

from metaselect import torchrun
from metaselect.cli.main import main


def run(lines: list[list[str]], out: Path) -> int:
    """Run the command lines as far as they succeed; returns the last exit code."""
    for words in lines:
        if code := main(words):
            return code
    rank_steps.write(out)
    return 0


if __name__ == "__main__":
    torchrun.silence_others()
    torchrun.leave(run(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])))
