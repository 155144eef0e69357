"""Commands as the report shows them: it may go to people who have no business with the folders of a machine."""

import shlex

from metaselect.run.environment import repeatable
from metaselect.run.layout import Run

RUN_FLAG = "--run RUN"
TRUST = "--trust-model"


def shown_command(run: Run, command: str) -> str:
    """A command line without what bears on nothing, and with RUN for the folder of the run.

    Empty where it is no command line, because somebody edited the record.
    """
    try:
        words = [word for word in shlex.split(repeatable(command)) if word != TRUST]
    except ValueError:  # a quotation that does not end
        return ""
    trust = [TRUST] if run.model_flags.startswith(TRUST) else []
    return f"{shlex.join([*words, *trust])} {RUN_FLAG}"
