"""The list of rules as a document: ``python -m maskwell.health.table`` writes ``docs/health_rules.md``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from maskwell.health.causes import CAUSES
from maskwell.health.rules import GROUPS, GUIDE_RULES, Rule

PATH = Path("docs/health_rules.md")
TITLES = {
    "preflight": "Before the first step, and once after warm-up",
    "numerics": "Numbers",
    "dynamics": "The course of the losses",
    "gradients": "Gradients and updates",
    "schedule": "Learning rate",
    "validation": "Validation",
    "task": "Pseudo-labels, discriminators, objects",
    "system": "System",
}
HEAD = """# Rules of the health monitor, beside those of others

Generated from the rules themselves by `python -m maskwell.health.table`; a test holds it against them.

A rule runs by default under its name (`health.rules.<name>.<threshold>=...`; `health.rules.<name>=null`
leaves it out). "Root" rules name what is wrong, the others see what comes of it; an incident is led by the
cause for which most speaks. "Peers" are monitors with a rule of this kind, by their documentation and code as
of summer 2026; "none" means that we found none. A peer's rule may be narrower, and is nowhere judged here by
how well it works.
"""


def document() -> str:
    """The whole file."""
    parts = [HEAD]
    peers: Counter[str] = Counter()
    alone = total = 0
    for group, rules in GROUPS.items():
        parts.append(f"## {TITLES[group]}\n")
        parts.append(_table((name, kind) for name, kind in rules.items()))
        for kind in rules.values():
            total += 1
            alone += not kind.peers
            peers.update(kind.peers)
    parts.append("## Bands of the field notes (`health=guide_<family>`, off by default)\n")
    parts.append(_table(("", kind) for kind in GUIDE_RULES))
    parts.append("## How many rules each monitor has a rule of the kind of\n")
    counted = sorted(peers.items(), key=lambda entry: (-entry[1], entry[0]))
    lines = ["| monitor | rules |", "|---|---|", f"| **maskwell** | **{total}** |"]
    lines += [f"| {name} | {count} |" for name, count in counted]
    parts.append("\n".join(lines) + f"\n\nFor {alone} of the {total} no peer was found.\n")
    parts.append("## Causes\n")
    parts.append("\n".join(f"- `{label}`: {words}" for label, words in CAUSES.items()) + "\n")
    return "\n".join(parts)


def _table(rules: Iterable[tuple[str, type[Rule]]]) -> str:
    lines = [
        "| | rule | what it says | asked | kind | action of an error | peers |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, kind in rules:
        said = " ".join((kind.__doc__ or "").split("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")
        depth = "root" if kind.depth == 0 else "symptom"
        action = kind.__dataclass_fields__["action"].default
        shown = f"`{name}`" if name else f"`{kind.__name__}`"
        peers = ", ".join(kind.peers) or "none"
        lines.append(f"| {kind.code} | {shown} | {said} | {kind.clock} | {depth} | {action} | {peers} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PATH.write_text(document(), encoding="utf-8")
    sys.stdout.write(f"{PATH}\n")
