"""The commands of a page's code blocks, and what is run of them where no person stands by.

A file beside it has a rule in every line that is not a comment:

    replace: TEXT => TEXT            in what is run of every command, twice over, the longest first
    append: COMMAND => OVERRIDES     to every command that begins so, by its longest such rule
    run: COMMAND => OTHER            instead of this very command
    serve: COMMAND => ADDRESS        it does not end: it has passed once the address answers
    skip: COMMAND => REASON          not run
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

RULES = Path(__file__).with_suffix(".txt")
KINDS = ("replace", "append", "run", "serve", "skip")
LANGUAGES = ("", "bash", "sh")
_BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"(^|\s+)#( .*)?$")


@dataclass(frozen=True)
class Step:
    """A command of the page; what is ``run`` for it, or why it is ``skipped``; the ``address`` it serves."""

    command: str
    run: str | None
    skipped: str = ""
    address: str = ""


def blocks(page: Path, languages: tuple[str, ...]) -> list[str]:
    """What the fenced blocks of these languages hold."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [text for language, text in found if language.strip() in languages]


def commands(page: Path) -> list[str]:
    """Every command line in the fenced blocks that are no output and no other language, without comments."""
    lines = re.sub(r"\s*\\\n\s*", " ", "\n".join(blocks(page, LANGUAGES))).splitlines()
    return [line for line in (_COMMENT.sub("", line).strip() for line in lines) if line]


def words(command: str) -> list[str]:
    """Of a command, without variables in front (``MASKWELL_DATA=... python ...``).

    None of a command with a placeholder that has blanks in it, or of half a command.
    """
    if "<" in command:
        return []
    try:
        found = shlex.split(command, comments=True)
    except ValueError:
        return []
    while found and re.fullmatch(r"[A-Z_]+=.*", found[0]):
        found = found[1:]
    return found


def steps(page: Path, rules_file: Path = RULES) -> list[Step]:
    """The commands of a page in order, with what the rules make of them.

    Raises:
        ValueError: a rule that is none or is for no command, or a command that stands there twice.
    """
    listed = commands(page)
    if twice := {command for command in listed if listed.count(command) > 1}:
        raise ValueError(f"{page.name} has commands twice: {sorted(twice)}")
    rules = _rules(rules_file)
    given = [*listed, *(right for _, _, right in rules)]  # a replacement may stand in another rule
    for kind, left, _ in rules:
        if not any(_concerns(kind, left, text) for text in (given if kind == "replace" else listed)):
            raise ValueError(f"{rules_file.name} has a rule for no command: {kind}: {left}")
    return [_step(command, rules) for command in listed]


Rule = tuple[str, str, str]


def _rules(file: Path) -> list[Rule]:
    """(kind, left, right) of every rule."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        kind, _, rest = line.partition(": ")
        left, arrow, right = rest.partition("=>")
        if kind not in KINDS or not arrow or not left.strip():
            raise ValueError(f"{file.name}: this is no rule: {line}")
        found.append((kind, left.strip(), right.strip()))
    return found


def _concerns(kind: str, left: str, command: str) -> bool:
    if kind == "replace":
        return left in command
    return command.startswith(left) if kind == "append" else command == left


def _step(command: str, rules: list[Rule]) -> Step:
    def of(kind: str) -> list[tuple[str, str]]:
        """Those that concern the command, the longest first."""
        found = [(left, right) for one, left, right in rules if one == kind and _concerns(one, left, command)]
        return sorted(found, key=lambda rule: -len(rule[0]))

    if skipped := of("skip"):
        return Step(command, None, skipped=skipped[0][1])
    if other := of("run"):
        text = other[0][1]
    else:
        text = " ".join([command, *(right for _, right in of("append")[:1])]).strip()
    replaced = sorted(((a, b) for kind, a, b in rules if kind == "replace"), key=lambda rule: -len(rule[0]))
    for _ in range(2):  # one replacement may lead to another
        for left, right in replaced:
            text = text.replace(left, right)
    served = of("serve")
    return Step(command, text, address=served[0][1] if served else "")
