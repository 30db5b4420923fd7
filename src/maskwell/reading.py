"""Files from strangers: read with a bound on their size, refused in one sentence where they are broken."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from maskwell.errors import UserError

TEXT_BYTES = 64 * 2**20
"""Largest label file, XML file, list of classes or configuration."""

ANNOTATION_BYTES = 4 * 2**30
"""Largest COCO file; COCO's own with 860,000 objects has 0.45 GB."""

IMAGE_BYTES = 4 * 2**30
"""Largest image file."""

_DEPTH = 50
"""Deepest nesting of a configuration."""


def read_bytes(path: Path, most: int = TEXT_BYTES) -> bytes:
    """The content of a file of at most ``most`` bytes.

    Raises:
        UserError: it is missing, cannot be read, or is larger.
    """
    try:
        size = path.stat().st_size
        if size > most:
            raise UserError(
                f"'{path}' has {size / 2**20:.0f} MiB; at most {most / 2**20:.0f} are read of such a file."
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"'{path}' does not exist.") from error
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror}).") from error


def read_text(path: Path, most: int = TEXT_BYTES) -> str:
    """The UTF-8 text of a file, with or without a byte-order mark.

    Raises:
        UserError: as :func:`read_bytes`, and where it is no text.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is no UTF-8 text ({error.reason} at byte {error.start}).") from error


def load_json(path: Path, most: int = TEXT_BYTES) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: as :func:`read_text`, and where it is no complete JSON.
    """
    text = read_text(path, most)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # broken, a number of 5,000 digits, nested without end
        raise UserError(
            f"'{path}' is no complete JSON ({_line(error)}); it may have been cut off half-way, so export or "
            "copy it again."
        ) from error


def check_yaml(text: str, place: str) -> None:
    """Refuse YAML that grows when it is read: aliases, and nesting without end.

    Raises:
        UserError: that, or no YAML at all; ``place`` says where it is from.
    """
    if len(text) > TEXT_BYTES:
        raise UserError(f"{place} has {len(text) / 2**20:.0f} MiB, which no configuration has.")
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise UserError(f"{place} holds an alias (*{event.anchor}), which is not read here.")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEPTH:
                raise UserError(f"{place} is nested more than {_DEPTH} deep, which no configuration is.")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{place} is no valid YAML ({_line(error)}).") from error


def load_yaml(path: Path) -> Any:
    """The content of a YAML file without aliases.

    Raises:
        UserError: as :func:`read_text` and :func:`check_yaml`.
    """
    text = read_text(path)
    check_yaml(text, f"'{path}'")
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:  # a date that is none
        raise UserError(f"'{path}' is no valid YAML ({_line(error)}).") from error


def check_name(name: str, place: str) -> None:
    """Refuse a file name that no file system takes; ``place`` says where it was written.

    Raises:
        UserError: an empty name, one with a NUL or a lone surrogate, or a part that is too long.
    """
    try:
        parts = [os.fsencode(part) for part in name.replace("\\", "/").split("/")]
    except UnicodeEncodeError:
        parts = [b"\0"]
    if not name or b"\0" in b"".join(parts) or len(name) > 4000 or max(map(len, parts)) > 255:
        shown = name[:60].encode("ascii", "backslashreplace").decode()
        raise UserError(f"{place} names the file '{shown}', which cannot be a file's name.")


def _line(error: Exception) -> str:
    """What an error says, on one line and not longer than one."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.encode("ascii", "backslashreplace").decode()[:200]
