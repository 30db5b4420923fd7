"""The folder of a run: how it is named and made, found again, and continued."""

from __future__ import annotations

import contextlib
import copy
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from maskwell.errors import UserError
from maskwell.reading import check_yaml, read_text

CONFIG, OVERRIDES = "config.yaml", "overrides.txt"

RUN_DIR = "MASKWELL_RUN_DIR"
"""Environment variable by which the first rank tells the processes it starts the folder of the run."""

_CHOICES = "# groups: "
_STAMP = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?")
_OVERRIDE = re.compile(r"^[+~]*(?P<key>[^=]+?)(?:=(?P<value>.*))?$", re.DOTALL)

_UNREADABLE = (
    *(OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError, AttributeError),
    AssertionError,  # OmegaConf's own of a single number
)
_NOT_CARRIED = ("ckpt_path", "init_from", "plan", "paths", "hydra")
"""First parts of override keys that concern one start of the program, not the run."""


def create(root: Path, family: str, now: datetime) -> Path:
    """Make ``root/family/<date_time>``; the second run in one second gets the suffix ``_2``."""
    parent = root / family
    stamp = now.strftime("%Y-%m-%d_%H-%M-%S")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            folder = parent / (stamp if attempt == 1 else f"{stamp}_{attempt}")
            with contextlib.suppress(FileExistsError):  # another process was faster
                folder.mkdir()
                return folder
    except OSError as error:
        raise UserError(f"No run folder can be made in {parent} ({error}); set paths.runs=.") from error
    raise UserError(f"{parent} holds a thousand runs of this second; wait a second.")


def find_checkpoint(wanted: str, root: Path, family: str, names: tuple[str, ...] = ("last",)) -> Path:
    """The file meant by ``last``, a run folder or a path to a checkpoint.

    ``names``: which checkpoint of a run folder is meant, the first that is there.

    Raises:
        UserError: where there is no such run or file.
    """
    if wanted == "last":
        return newest_checkpoint(root, family)
    path = Path(wanted)
    if path.is_dir():
        inside = [path / "checkpoints" / f"{name}.ckpt" for name in names]
        for checkpoint in inside:
            if checkpoint.is_file():
                return checkpoint
        raise UserError(f"The folder {path} holds no {inside[0].relative_to(path)} to start from.")
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}; give 'last', a run folder or a .ckpt file.")
    return path


def newest_checkpoint(root: Path, family: str | None = None) -> Path:
    """``last.ckpt`` of the newest run of ``family`` that has one; of all families where none is named."""
    below = root / family if family else root
    found = list(below.glob("*/checkpoints/last.ckpt" if family else "*/*/checkpoints/last.ckpt"))
    if not family:  # other folders with a name of their own may lie there too
        found = [path for path in found if _STAMP.fullmatch(path.parents[1].name)]
    if not found:
        raise UserError(f"There is no run with a checkpoint in {below} to go on from.")
    return max(found, key=lambda path: _age(path.parents[1].name))


def _age(name: str) -> tuple[str, int]:
    """Sort key of a folder name: its second, then the number within that second."""
    stamp, _, number = name.partition("_")[2].partition("_")
    return f"{name.partition('_')[0]}_{stamp}", int(number) if number.isdigit() else 1


def folder_of(checkpoint: Path) -> Path | None:
    """The run folder in which ``checkpoint`` lies; None where it lies alone."""
    folder = checkpoint.resolve().parents[1]
    return folder if checkpoint.parent.name == "checkpoints" and (folder / CONFIG).is_file() else None


@dataclass(frozen=True)
class Origin:
    """What a configuration was composed from: single overrides and the chosen file of each group."""

    overrides: tuple[str, ...] = ()
    choices: Mapping[str, str | None] = field(default_factory=dict)


def override(key: str, value: str | Path) -> str:
    """``key=value`` as Hydra reads it: quoted where the value holds more than plain characters."""
    text = str(value)
    if not re.fullmatch(r"[\w./:+-]+", text, re.ASCII):
        text = "'" + text.replace("'", "\\'") + "'"
    return f"{key}={text}"


def load(folder: Path) -> tuple[DictConfig, Origin]:
    """Configuration of the run in ``folder`` and what it was composed from."""
    config = parse(read_text(folder / CONFIG), f"'{folder / CONFIG}'")
    text = folder / OVERRIDES
    lines = read_text(text).splitlines() if text.is_file() else []
    choices: dict[str, str | None] = {}
    for line in lines:
        if line.startswith(_CHOICES):
            pairs = (pair.partition("=") for pair in line.removeprefix(_CHOICES).split())
            choices |= {group: choice for group, _, choice in pairs}
    return config, Origin(tuple(line for line in lines if line and not line.startswith("#")), choices)


def parse(text: str, place: str) -> DictConfig:
    """A configuration that was written by an earlier start, or by a stranger.

    Raises:
        UserError: it is no configuration, or does not resolve; ``place`` says where it is from.
    """
    check_yaml(text, place)
    try:
        config = OmegaConf.create(text)
        OmegaConf.to_container(config, resolve=True)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{place} cannot be read ({reason}).") from error
    if not isinstance(config, DictConfig):
        raise UserError(f"{place} is no configuration: it has no keys.")
    return config


def save(folder: Path, cfg: DictConfig, origin: Origin, note: str = "") -> None:
    """Write config.yaml; append the overrides of this start, under ``note``, to overrides.txt."""
    beside = folder / f".{CONFIG}.tmp"
    beside.write_text(OmegaConf.to_yaml(cfg), encoding="utf-8")
    beside.replace(folder / CONFIG)  # at once: another rank may be reading it
    chosen = " ".join(f"{group}={choice}" for group, choice in origin.choices.items() if choice)
    comments = [f"# {note}"] if note else []
    comments += [f"{_CHOICES}{chosen}"] if chosen else []
    with (folder / OVERRIDES).open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in [*comments, *origin.overrides])


def on_top(
    stored: DictConfig, before: Origin, fresh: DictConfig, now: Origin
) -> tuple[DictConfig, list[str]]:
    """The stored configuration of a run that goes on, with the overrides of this start on top.

    Args:
        stored: of the run.
        before: what ``stored`` was composed from.
        fresh: composed from this command line without the stored run: the source of the values.
        now: what ``fresh`` was composed from.

    Returns:
        The merged configuration and the overrides that changed it.

    Raises:
        UserError: where a recipe is asked for that the run was not started with.
    """
    merged = copy.deepcopy(stored)
    OmegaConf.set_struct(merged, False)
    applied = []
    for override in now.overrides:
        found = _OVERRIDE.match(override)
        if found is None or found["key"].split(".")[0] in _NOT_CARRIED or override in before.overrides:
            continue
        key, value = found["key"], found["value"]
        if key in now.choices and before.choices.get(key) == value:
            continue
        if key in ("experiment", "debug"):
            raise UserError(
                f"{override} cannot be put on top of a run that goes on: start a new run with init_from=,"
                " or name the single keys."
            )
        path = key.split("@")[-1].replace("/", ".")
        OmegaConf.update(merged, path, OmegaConf.select(fresh, path), merge=False, force_add=True)
        applied.append(override)
    return merged, applied


def moved(config: str, folder: Path) -> DictConfig:
    """A resolved configuration out of a checkpoint, with its paths turned to a new run ``folder``."""
    cfg = parse(config, "The configuration of the checkpoint")
    old = str(OmegaConf.select(cfg, "paths.run_dir"))
    turned = OmegaConf.create(OmegaConf.to_yaml(cfg).replace(old, str(folder)))
    assert isinstance(turned, DictConfig)
    return turned


def launched() -> int | None:
    """Global rank of a process that a launcher started beside others (torchrun, srun); None elsewhere."""
    given = os.environ
    if "RANK" in given and int(given.get("WORLD_SIZE", "1")) > 1:
        return int(given["RANK"])
    if int(given.get("NODE_RANK", "0")) > 0:  # started by hand on a further machine
        return int(given["NODE_RANK"])
    by_hand = given.get("SLURM_JOB_NAME") in ("bash", "interactive")  # a shell in which srun was not used
    if "SLURM_PROCID" in given and int(given.get("SLURM_NTASKS", "1")) > 1 and not by_hand:
        return int(given["SLURM_PROCID"])
    return None


def is_first() -> bool:
    """Whether this process writes the files of its run: alone, or the first of its ranks."""
    return joined() is None and not launched()


def joined() -> Path | None:
    """The folder of the run in a process that the run's first rank started; None elsewhere."""
    folder = os.environ.get(RUN_DIR)
    return Path(folder) if folder and os.environ.get("LOCAL_RANK", "0") != "0" else None
