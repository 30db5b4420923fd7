"""The one exception for mistakes a user can mend: bad files, keys, values."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input, in one sentence: what is wrong, in which file or key, and what to do.

    The entry points print the message without a traceback and exit with code 2.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` with the known word nearest to ``word``, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
