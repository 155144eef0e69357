"""Every error that a user can cause, each with its exit code.

    MetaSelectError
      ConditionUnmet      1   it ran, but a condition does not hold (a stale stage, a training that failed)
      UsageError          2   the command line itself is wrong
      DataError           3   the data set, or a file of answers, is bad or missing
      ArtefactError       4   a file of the run is missing, stale or damaged
        LockedError       4   another command is working in the run
      ResourceError       5   out of memory or disk, or no permission for a file

``cli.main`` turns them into exit codes. A message names the value, the limit and the file; ``hint`` is the remedy, if
possible as a command. Some codes do not come from these classes: ``cli.results`` also returns 1, where
``Outcome.unmet`` says which condition does not hold; 70 is any other exception, a bug; 130 and 143 are SIGINT and
SIGTERM (``signals``).
"""


class MetaSelectError(Exception):
    """Base of all errors that the user can correct.

    Attributes:
        exit_code: what the process returns.
        code: a stable word for programs, printed under ``--json``.
        hint: the remedy, or an empty string.
    """

    exit_code = 70
    code = "error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        if hint:  # for the traceback in a notebook; the command line prints no traceback
            self.add_note(hint)


class ConditionUnmet(MetaSelectError):
    """The command did its work, but a condition that scripts rely on is not met."""

    exit_code = 1
    code = "condition_unmet"


class UsageError(MetaSelectError):
    """An option has a value that it cannot have."""

    exit_code = 2
    code = "usage"


class DataError(MetaSelectError):
    """Input data is missing or bad; the message names file, row and id."""

    exit_code = 3
    code = "data"


class ArtefactError(MetaSelectError):
    """An artefact of the run is missing, stale, damaged or locked."""

    exit_code = 4
    code = "artefact"


class LockedError(ArtefactError):
    """Another command is working in the run; the same may succeed when that one has ended."""


class ResourceError(MetaSelectError):
    """Memory or disk is exhausted, or the permission for a file is missing."""

    exit_code = 5
    code = "resource"
