"""The reference of the configuration, out of conf/*.yaml: every file and key, with value and reason.

python docs/configuration_reference.py OUTPUT.md
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

GROUPS = {
    "": "Programs",
    "model": "Model families",
    "data": "Data",
    "optim": "Optimisers",
    "trainer": "Trainer",
    "callbacks": "Callbacks",
    "health": "Health monitor",
    "logger": "Loggers",
    "experiment": "Experiments",
    "debug": "Debug presets",
    "paths": "Paths",
    "sweep": "Searches",
}
"""Folder of conf/ -> title, in the order of the page; others follow under their own name."""

_KEY = re.compile(r"^(?P<indent> *)(?P<key>[\w@/.-]+):(?P<rest>.*)$")
_NOT_SHOWN = ("hydra",)


@dataclass(frozen=True)
class Entry:
    """A key with dots, its value as written, and its comment."""

    key: str
    value: str
    why: str


def entries(text: str) -> list[Entry]:
    """The keys of a YAML file that have a value or a comment, in order; the defaults list is left out."""
    found: list[Entry] = []
    path: list[tuple[int, str]] = []
    in_defaults = False
    for line in text.splitlines():
        match = _KEY.match(line)
        if match is None:
            if found and re.match(r"^ +#", line) and not in_defaults:  # a comment that goes on
                last = found.pop()
                found.append(Entry(last.key, last.value, f"{last.why} {line.strip(' #')}".strip()))
            continue
        indent, key = len(match["indent"]), match["key"]
        in_defaults = key == "defaults" if indent == 0 else in_defaults
        if in_defaults:
            continue
        path = [*(part for part in path if part[0] < indent), (indent, key)]
        value, _, why = match["rest"].partition(" #")
        if value.strip() or why.strip():
            found.append(Entry(".".join(name for _, name in path), value.strip(), why.strip()))
    return found


def heading(text: str) -> str:
    """The comment at the top of a file as one paragraph."""
    lines = []
    for line in text.splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def page(root: Path) -> str:
    """The whole reference as Markdown.

    Args:
        root: the folder conf/.
    """
    parts = [
        "# Configuration",
        "Every file of `conf/`, written from the files themselves. A group's file is chosen as `group=name`, "
        "a key set as `group.key=value`; an unknown key is refused with the nearest known one.",
    ]
    folders = sorted({file.parent.relative_to(root).parts[:1] for file in root.rglob("*.yaml")})
    names = [
        *GROUPS,
        *(folder[0] for folder in folders if folder and folder[0] not in (*GROUPS, *_NOT_SHOWN)),
    ]
    for name in names:
        files = sorted((root / name).rglob("*.yaml")) if name else sorted(root.glob("*.yaml"))
        if files:
            parts.append(f"## {GROUPS.get(name, name)}")
            parts += [_file(file, root) for file in files]
    return "\n\n".join(parts) + "\n"


def _file(file: Path, root: Path) -> str:
    text = file.read_text(encoding="utf-8")
    where = file.relative_to(root).with_suffix("").as_posix()
    group, _, choice = where.rpartition("/")
    title = f"`{group}={choice}`" if group else f"`{choice}.yaml`"
    rows = [f"| `{e.key}` | {_cell(e.value)} | {_escaped(e.why)} |" for e in entries(text)]
    table = ["| key | default | why |", "| --- | --- | --- |", *rows] if rows else []
    return "\n\n".join(part for part in (f"### {title}", _escaped(heading(text)), "\n".join(table)) if part)


def _cell(value: str) -> str:
    bars = value.replace("|", "\\|")
    return f"`{bars}`" if value else ""


def _escaped(text: str) -> str:
    """Prose in which nothing but backticks is a mark."""
    parts = text.split("`")  # every second one is code
    parts[::2] = [re.sub(r"([|\[\]_*<>])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def write(root: Path, path: Path) -> None:
    """Write the page to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(root), encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).resolve().parents[1] / "conf", Path(sys.argv[1]))
