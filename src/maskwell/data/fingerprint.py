"""A short name for the state of a dataset's files, kept with each run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

_READ_WHOLE = frozenset({".json"})


def file_fingerprint(paths: Iterable[Path]) -> str:
    """Hex digest over names and sizes of files, and over the whole content of annotation files."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        if path.suffix.lower() in _READ_WHOLE:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
