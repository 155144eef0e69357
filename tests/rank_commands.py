"""Several command lines, one after another, in the same processes: `torchrun ... tests/rank_commands.py FILE.json`."""

import json
import sys
from pathlib import Path

from metaselect import torchrun
from metaselect.cli.main import main

if __name__ == "__main__":
    torchrun.silence_others()
    for words in json.loads(Path(sys.argv[1]).read_text()):
        if code := main(words):
            break
    torchrun.leave(code)
