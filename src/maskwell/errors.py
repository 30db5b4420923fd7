"""The one exception for mistakes a user can mend (bad files, keys, values), and what programs exit with."""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Iterable

MISTAKE = 2
"""Exit code of a :class:`UserError`."""

TRY_AGAIN = 75
"""Exit code of a training that SIGTERM or SIGUSR1 stopped: saved, to be started again (EX_TEMPFAIL)."""

CTRL_C = 130
"""Exit code of what the keyboard stopped: 128 + SIGINT."""


class UserError(Exception):
    """Bad input, in one sentence: what is wrong, in which file or key, and what to do.

    The entry points print the message without a traceback and exit with code 2.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` with the known word nearest to ``word``, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def warn(text: str) -> None:
    """One line on stderr about what goes on without something; never an error itself (a closed terminal)."""
    with contextlib.suppress(OSError):
        print(f"warning: {text}", file=sys.stderr, flush=True)
