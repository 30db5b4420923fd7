"""What the README tells people to type exists: files, make targets, modules, and keys that compose."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from maskwell import cli, compose

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "src" / "maskwell" / "models").glob("*/README.md"),
    ]
)
VERBS = {f"{verb}.py": verb for verb in cli.VERBS}


def _commands(page: Path) -> list[list[str]]:
    """Words of every command line in the fenced blocks that are no output and no other language."""
    blocks = re.findall(
        r"^```(?:bash|sh|)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    split = (_words(line) for line in lines)
    return [_plain(words) for words in split if words]


def _words(line: str) -> list[str]:
    """Of a command; none of a line with a placeholder that has blanks in it, or of half a command."""
    if "<" in line:
        return []
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


def _plain(words: list[str]) -> list[str]:
    """Without variables in front (``MASKWELL_DATA=... python ...``)."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return words


def _programs() -> list[tuple[str, str, tuple[str, ...]]]:
    found = [
        (page.relative_to(ROOT).as_posix(), VERBS[words[1]], tuple(words[2:]))
        for page in PAGES
        for words in _commands(page)
        if len(words) > 1 and words[0].startswith("python") and words[1] in VERBS
    ]
    return sorted(set(found))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if re.match(r"https?://", target):
            continue
        name, _, heading = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name} links to {target}"
        if heading and path.suffix == ".md":
            titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in slugs, f"{page.name} links to the heading {target}"


@pytest.mark.parametrize(("page", "verb", "words"), _programs(), ids=lambda value: str(value)[:60])
def test_programs_compose(
    page: str, verb: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKWELL_DATA", "/data")
    overrides = [word for word in words if not word.startswith("-") and "..." not in word]
    if "-m" in words:  # the first run of a grid
        overrides = [word.partition(",")[0] for word in overrides]
    if any(word.startswith("ckpt_path=") for word in overrides):  # the groups are those of the run
        overrides = [word for word in overrides if not word.startswith(("ckpt_path=", "model.", "data."))]
    compose.compose(verb, overrides)


def test_modules_and_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        for words in _commands(page):
            if words[:2] == ["python", "-m"]:
                assert words[2].split(".")[0] in ("venv", "pip") or find_spec(words[2]), (page.name, words)
            if words[:1] == ["make"] and len(words) > 1:
                assert words[1] in targets, (page.name, words)
            if words[:1] == ["maskwell"]:
                assert words[1] in (*cli.VERBS, *cli.TOOLS), (page.name, words)
