"""What the README tells people to type exists: files, make targets, modules, and keys that compose."""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

import maskwell
from benchmarks import readme_commands
from maskwell import cli, compose
from maskwell.health.rules import default_rules

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "src" / "maskwell" / "models").glob("*/README.md"),
    ]
)
VERBS = {f"{verb}.py": verb for verb in cli.VERBS}


def _programs() -> list[tuple[str, str, tuple[str, ...]]]:
    found = [
        (page.relative_to(ROOT).as_posix(), VERBS[words[1]], tuple(words[2:]))
        for page in PAGES
        for words in map(readme_commands.words, _typed(page))
        if len(words) > 1 and words[0].startswith("python") and words[1] in VERBS
    ]
    return sorted(set(found))


def _typed(page: Path) -> list[str]:
    """Commands of a page; of the README also what is run of them, with a name for what a shell would find."""
    if page != README:
        return readme_commands.commands(page)
    steps = readme_commands.steps(page)
    texts = [text for step in steps for text in (step.command, step.run) if text]
    return [re.sub(r"\$\([^)]*\)", "run", text) for text in texts]


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
    overrides = [word for word in words if "=" in word and not word.startswith("-") and "..." not in word]
    if "-m" in words:  # the first run of a grid
        overrides = [word.partition(",")[0] for word in overrides]
    if any(word.startswith("ckpt_path=") for word in overrides):  # the groups are those of the run
        overrides = [word for word in overrides if not word.startswith(("ckpt_path=", "model.", "data."))]
    compose.compose(verb, overrides)


def test_modules_and_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        for words in filter(None, map(readme_commands.words, _typed(page))):
            if words[:2] == ["python", "-m"]:
                assert words[2].split(".")[0] in ("venv", "pip") or find_spec(words[2]), (page.name, words)
            if words[:1] == ["make"] and len(words) > 1:
                assert words[1] in targets, (page.name, words)
            if words[:1] == ["maskwell"]:
                assert words[1] in (*cli.VERBS, *cli.TOOLS), (page.name, words)


def test_no_placeholder_is_left_in_what_is_run() -> None:
    steps = readme_commands.steps(README)
    assert len(steps) >= 25 and sum(step.run is None for step in steps) == 1
    for step in steps:
        left = re.search(r"\.\.\.|/path|FOLDER|RUN RUN|SHORT|NEWEST|FEW|2026-", step.run or "")
        assert left is None, step.run


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_in_pages_compiles_and_names_what_is_there(page: Path) -> None:
    for block in readme_commands.blocks(page, ("python",)):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "maskwell" or hasattr(maskwell, node.attr), ast.unparse(node)
            elif isinstance(node, ast.ImportFrom):
                assert node.module and find_spec(node.module), ast.unparse(node)


def test_findings_of_the_table_of_symptoms_are_rules() -> None:
    text = README.read_text(encoding="utf-8")
    rows = text[text.index("## When a loss looks wrong") : text.index("## FAQ")]
    named = re.findall(r"^\|[^|]*\| `(\w+)` \|", rows, re.MULTILINE)
    assert len(named) >= 8 and set(named) <= set(default_rules())


def test_lines_of_the_readme_fit_a_terminal() -> None:
    long = [line for line in README.read_text(encoding="utf-8").splitlines() if len(line) > 120]
    assert [line for line in long if not line.startswith(("|", "**"))] == []
