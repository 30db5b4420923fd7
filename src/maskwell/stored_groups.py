"""What a command line that names a run leaves out: the group files that the run was composed from.

``python train.py ckpt_path=RUN model.iterations=300`` is about the model of RUN. Hydra composes before
anything of ours runs, and would hold ``model.iterations`` against the default family.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from maskwell import compose, runs

KEYS = {"train": "ckpt_path", "evaluate": "ckpt", "predict": "ckpt"}
"""By which key a verb names a run."""

LAST = "last"

_OF_THIS_START = ("paths", "hydra", *compose.RECIPES)
"""Groups that concern one start of the program, and recipes, whose keys the stored run holds already."""


def added(verb: str, arguments: Sequence[str], search: Sequence[str] = ()) -> list[str]:
    """The arguments behind the groups of the run that they name; ``last`` without ``model=`` is any family's.

    Args:
        verb: train, evaluate or predict.
        arguments: of the command line; a group that is chosen here is left as it is.
        search: further folders of groups, as in :func:`maskwell.compose.compose`.

    Raises:
        UserError: ``last`` is asked for and there is no run.
    """
    wanted = _value(KEYS[verb], arguments) if verb in KEYS else None
    if wanted is None:
        return list(arguments)
    given = {key: value for key, _, value in (a.lstrip("+").partition("=") for a in arguments)}
    folder = _folder(verb, wanted, arguments, given.get("model"), search)
    if folder is None:
        return list(arguments)
    known = set(compose.groups(verb)) - set(_OF_THIS_START)
    stored = runs.load(folder)[1].choices
    groups = []
    for group, choice in stored.items():
        parent = group.partition("/")[0]
        if choice is None or "@" in group or parent not in known or group in given:
            continue
        if parent in given and given[parent] != stored.get(parent):
            continue  # another model was chosen: the recipe of the stored one is none of its groups
        groups.append(f"{group}={choice}")
    return [*groups, *arguments]


def _folder(
    verb: str, wanted: str, arguments: Sequence[str], model: str | None, search: Sequence[str]
) -> Path | None:
    """The folder of the run that is meant; None where there is none, which is told when it is opened."""
    if wanted != LAST:
        path = Path(wanted)
        folder = path if path.is_dir() else path.resolve().parents[1]
        return folder if (folder / runs.CONFIG).is_file() else None
    root = Path(_value("paths.runs", arguments) or _default_root())
    if model is None:
        found = runs.newest_checkpoint(root)
        print(f"last: {found.parents[1]} (the newest run of all families; model=... asks for one family)")
        return found.parents[1]
    from maskwell import build  # imports torch, which --help does without

    cfg, _ = compose.compose(verb, [f"model={model}", f"{KEYS[verb]}={LAST}"], search)
    return runs.newest_checkpoint(root, build.family(cfg)).parents[1]


def _value(key: str, arguments: Sequence[str]) -> str | None:
    """The value of the last override of ``key``, unquoted; None where there is none or it cannot be read."""
    found = [argument for argument in arguments if argument.lstrip("+").partition("=")[0] == key]
    if not found:
        return None
    try:
        value = OverridesParser.create().parse_override(found[-1]).value()
    except HydraException:  # told in a sentence when everything is composed
        return None
    return value if isinstance(value, str) else None


def _default_root() -> str:
    text = (compose.conf_dir() / "paths" / "default.yaml").read_text(encoding="utf-8")
    return str(OmegaConf.create(yaml.safe_load(text)).runs)
