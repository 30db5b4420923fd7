"""New dataset folders: filled under another name and renamed, so that they appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maskwell.errors import UserError


@contextmanager
def new_folder(root: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``root`` when the block ends well and vanishes when it does not.

    Raises:
        UserError: ``root`` exists and is not an empty folder, or cannot be made.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} exists already; name another folder, or remove it first.")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    except OSError as error:
        raise UserError(f"{root} cannot be made ({error}); name a folder that can be written.") from error
    try:
        yield building
        building.chmod(0o755)  # mkdtemp makes it private
        building.replace(root)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def put_file(source: Path, target: Path, link: bool) -> None:
    """Copy ``source``, or hard-link it where ``link`` is asked for and the file system can."""
    if link:
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # another disk, or no links there: a copy is as good
    shutil.copyfile(source, target)
