"""What is run of a page's commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import readme_commands
from benchmarks.readme_commands import Step

PAGE = """# Title

```
make train        # comment
python train.py data.root=/path \\
  optim.lr=1
python train.py --help
python big.py
```

```python
not a command
```

no command either

```bash
make demo  # serves
```
"""
RULES = """# what is run
replace: SHORT => steps=2
replace: /path => sample
append: python train.py => SHORT
append: python train.py --help =>
run: make train => make train ARGS="SHORT"
skip: python big.py => a cluster
serve: make demo => http://127.0.0.1:1
"""


def _steps(tmp_path: Path, page: str, rules: str) -> list[Step]:
    (tmp_path / "page.md").write_text(page)
    (tmp_path / "rules.txt").write_text(rules)
    return readme_commands.steps(tmp_path / "page.md", tmp_path / "rules.txt")


def test_rules_say_what_is_run(tmp_path: Path) -> None:
    found = _steps(tmp_path, PAGE, RULES)
    assert [(step.run, step.skipped, step.address) for step in found] == [
        ('make train ARGS="steps=2"', "", ""),
        ("python train.py data.root=sample optim.lr=1 steps=2", "", ""),
        ("python train.py --help", "", ""),
        (None, "a cluster", ""),
        ("make demo", "", "http://127.0.0.1:1"),
    ]
    assert [step.command for step in found][::4] == ["make train", "make demo"]


def test_without_rules_commands_are_run_as_they_stand(tmp_path: Path) -> None:
    assert all(step.run == step.command for step in _steps(tmp_path, PAGE, ""))


@pytest.mark.parametrize(
    ("page", "rules", "match"),
    [
        (PAGE, RULES.replace("skip: python big.py", "skip: python huge.py"), "for no command"),
        (PAGE, RULES.replace("replace: /path", "replace: /pth"), "for no command"),
        (PAGE, RULES.replace("skip:", "leave:"), "no rule"),
        (PAGE + "```\nmake demo\n```\n", "", "twice"),
    ],
)
def test_a_rule_that_does_nothing_and_a_repeated_command_are_errors(
    page: str, rules: str, match: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=match):
        _steps(tmp_path, page, rules)


def test_words_leave_out_variables_and_half_commands() -> None:
    assert readme_commands.words("A_B=1 python x.py 'a b'") == ["python", "x.py", "a b"]
    assert readme_commands.words("python <a file>") == [] == readme_commands.words("it's")
