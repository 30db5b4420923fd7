"""Strict configuration: unknown keys are refused, and Hydra's errors become one sentence.

Hydra refuses an unknown root key and an unknown key of the command line. A key inside a group that
an experiment file sets, or that comes behind a ``+``, it takes silently. :func:`check` closes that
gap: it composes the chosen group files alone and holds every further key of the whole configuration
against them and against the signatures of the constructors they name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from maskwell import schema
from maskwell.errors import UserError, nearest
from maskwell.runs import Origin

RECIPES = ("experiment", "debug")
"""Groups whose files override other groups: their keys are what is checked."""

ENTRY_GROUPS = ("callbacks", "logger")
"""Groups of named entries, to which an experiment may add one with its own ``_target_``."""


def conf_dir() -> Path:
    """The configuration folder: inside the installed package, else at the root of the checkout."""
    packed = Path(__file__).parent / "conf"
    return packed if packed.is_dir() else Path(__file__).parents[2] / "conf"


@contextmanager
def _hydra(search: Sequence[str]) -> Iterator[list[str]]:
    """A Hydra of our own over ``conf/``; yields the override that adds the folders ``search``."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            yield [f"hydra.searchpath=[{','.join(search)}]"] if search else []
    finally:
        GlobalHydra.instance().hydra = outer


def compose(
    name: str, overrides: Sequence[str] = (), search: Sequence[str] = ()
) -> tuple[DictConfig, Origin]:
    """Compose ``<name>.yaml``; ``search`` holds further folders of groups as ``file://`` addresses.

    Raises:
        UserError: one sentence naming the key or choice that does not exist and the nearest that does.
    """
    schema.register()
    try:
        with _hydra(search) as extra:
            cfg = hydra.compose(name, [*extra, *overrides], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise explain(error, name, overrides, search) from error
    origin = _origin(cfg.hydra, overrides)
    with read_write(cfg), open_dict(cfg):
        del cfg["hydra"]
    check(cfg, name, origin, search)
    return cfg, origin


def check_job(cfg: DictConfig, name: str) -> Origin:
    """:func:`check` for a configuration that ``hydra.main`` has composed; tells its origin."""
    running = HydraConfig.get()
    sources = [s.path for s in running.runtime.config_sources]
    search = [f"file://{s}" for s in sources if s.startswith("/") and Path(s) != conf_dir()]
    overrides = OmegaConf.to_container(OmegaConf.create(running.overrides.task))  # not resolved
    assert isinstance(overrides, list)
    origin = _origin(OmegaConf.create({"runtime": running.runtime}), overrides)
    check(cfg, name, origin, search)
    return origin


def _origin(running: DictConfig, overrides: Sequence[str]) -> Origin:
    choices = {
        group: None if choice is None else str(choice)
        for group, choice in running.runtime.choices.items()
        if not group.startswith("hydra")
    }
    return Origin(tuple(overrides), choices)


def check(cfg: DictConfig, name: str, origin: Origin, search: Sequence[str] = ()) -> None:
    """Refuse every key of ``cfg`` that neither the chosen group files nor their constructors know.

    Raises:
        UserError: names the first such key, where it was set, and the nearest known one.
    """
    added = any(override.startswith("+") for override in origin.overrides)
    if added or any(origin.choices.get(group) for group in RECIPES):  # all other keys Hydra has checked
        plain = _plain(name, origin.choices, search)
        for key, holder in _new_keys(cfg, plain, ""):
            if problem := _problem(key, holder, plain):
                raise UserError(f"{problem} It was set {_setter(key, origin)}.")
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{error.full_key} cannot be resolved: {reason}.") from error
    if cfg.get("ckpt") or cfg.get("ckpt_path"):  # brings its own data
        missing = [key for key in missing if not key.startswith("data.")]
    if missing:
        raise UserError(f"{missing[0]} has to be given: {missing[0]}=...")


def _plain(name: str, choices: Mapping[str, str | None], search: Sequence[str]) -> DictConfig:
    """The chosen group files without experiment, debug preset and single keys."""
    known = groups(name)
    chosen = {group: _value(choice) for group, choice in choices.items() if group not in RECIPES}
    roots = [f"{group}={value}" for group, value in chosen.items() if group in known]
    with _hydra(search) as extra:
        cfg = hydra.compose(name, [*extra, *roots], return_hydra_config=True)
        there = {group: _value(choice) for group, choice in cfg.hydra.runtime.choices.items()}
        more = [
            f"{'' if group in there else '+'}{group}={value}"
            for group, value in chosen.items()
            if group not in known and there.get(group) != value
        ]
        if more:
            return hydra.compose(name, [*extra, *roots, *more])
    with read_write(cfg), open_dict(cfg):
        del cfg["hydra"]
    return cfg


def _value(choice: object) -> str:
    return "null" if choice is None else str(choice).replace("'", "")


def groups(name: str) -> set[str]:
    """The groups of the defaults list of ``<name>.yaml``."""
    root = yaml.safe_load((conf_dir() / f"{name}.yaml").read_text(encoding="utf-8"))
    return {str(next(iter(entry))) for entry in root["defaults"] if isinstance(entry, dict)}


def _new_keys(node: DictConfig, plain: DictConfig, path: str) -> Iterator[tuple[str, DictConfig]]:
    """(dotted key, node that holds it) for each key of ``node`` that ``plain`` has not."""
    for name in map(str, node):
        key, child = f"{path}{name}", node._get_node(name)
        if name not in plain.keys():  # noqa: SIM118 - `in` is False for a key whose value is still missing
            yield key, node
        elif isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            before = plain._get_node(name)
            if isinstance(before, DictConfig) and not before._is_none() and (len(before) or "." not in key):
                yield from _new_keys(child, before, f"{key}.")


def _problem(key: str, holder: DictConfig, plain: DictConfig) -> str | None:
    """Why the new ``key`` may not be there; None where it may."""
    parent, _, name = key.rpartition(".")
    target = holder._get_node("_target_") if parent and "_target_" in holder else None
    if target is not None:
        from maskwell import build

        known = build.parameters(str(target), parent)
        if known is None or name in known or name in build.HYDRA_KEYS:
            return None
        return f"Unknown key '{key}': {target} takes no '{name}'.{_suggest(key, plain, known)}"
    if parent in ENTRY_GROUPS:
        entry = holder._get_node(name)
        if isinstance(entry, DictConfig) and "_target_" in entry:
            return None
    return f"Unknown key '{key}'.{_suggest(key, plain, set())}"


def _suggest(key: str, plain: DictConfig, siblings: set[str]) -> str:
    """The nearest sibling of ``key``, else the key with the nearest name anywhere."""
    parent, _, name = key.rpartition(".")
    beside = OmegaConf.select(plain, parent) if parent else plain
    if isinstance(beside, DictConfig):
        siblings = siblings | {str(k) for k in beside if not str(k).startswith("_")}
    if not parent:
        siblings = siblings | set(RECIPES)
    if hint := nearest(name, siblings):
        return hint.replace("'", f"'{parent}.", 1) if parent else hint
    known = list(_paths(plain, ""))
    found = difflib.get_close_matches(name, {path.rpartition(".")[2] for path in known}, n=1)
    if not found:
        return ""
    # at its right place it may be right: of several places, the one with the most similar path
    places = [path for path in known if path.rpartition(".")[2] == found[0]]
    return f" Did you mean '{max(places, key=lambda p: difflib.SequenceMatcher(None, key, p).ratio())}'?"


def _paths(node: DictConfig, prefix: str) -> Iterator[str]:
    for name in map(str, node):
        yield f"{prefix}{name}"
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            yield from _paths(child, f"{prefix}{name}.")


def _setter(key: str, origin: Origin) -> str:
    for override in origin.overrides:
        if override.lstrip("+~").split("=")[0] == key:
            return f"by {override}"
    recipes = [f"{group}={origin.choices[group]}" for group in RECIPES if origin.choices.get(group)]
    return f"by {' or '.join(recipes)}" if recipes else "on the command line"


def explain(
    error: Exception, name: str, overrides: Sequence[str] = (), search: Sequence[str] = ()
) -> UserError:
    """One sentence for what Hydra, OmegaConf or the YAML reader say of a configuration."""
    text = " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        return UserError(
            f"Cannot read '{error.override}': write key=value, and quote a value that holds spaces, commas,"
            " brackets or an equals sign (key='\"a, b\"')."
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_choice(error.missing_cfg_file, search)
    if isinstance(error, yaml.YAMLError):
        return UserError(f"A configuration file is not valid YAML: {text}.")
    unknown = (
        re.search(r"Could not override '([^']+)'", text)
        or re.search(r"Could not delete from config\. '([^']+)'", text)
        or re.search(r"Key '[^']+' not in '\w+'.*?full_key: (\S+)", text)
    )
    if unknown and "/" in unknown[1] and (conf_dir() / unknown[1]).is_dir():
        parent, _, child = unknown[1].rpartition("/")
        return UserError(
            f"{unknown[1]}: the chosen {parent} has no '{child}' to choose; another {parent} may."
        )
    if unknown:
        key = unknown[1].replace("/", ".")
        known = _known(name, overrides, search)
        if isinstance(OmegaConf.select(known, key), DictConfig):
            return UserError(f"A new entry of '{key}' is written with a '+': +{key}.NAME=value.")
        return UserError(f"Unknown key '{key}'.{_suggest(key, known, set())}{_file_of(text)}")
    if found := re.search(r"An item is already at '([^']+)'", text):
        return UserError(f"'{found[1]}' exists already: write it without the '+'.")
    if found := re.search(r"Error merging override (.+)$", text):
        reason = str(error.__cause__).splitlines()[0] if error.__cause__ else "it does not fit there"
        return UserError(f"Cannot set {found[1]}: {reason.rstrip('.')}.")
    lines = str(error).splitlines()
    reason = lines[1] if text.startswith("In '") and len(lines) > 1 else lines[0]
    return UserError(f"{reason.rstrip('.:')}.{_file_of(text)}")


def _file_of(text: str) -> str:
    found = re.match(r"In '([^']+)'", text)
    return f" It was set in {found[1]}.yaml." if found else ""


def _known(name: str, overrides: Sequence[str], search: Sequence[str]) -> DictConfig:
    """The configuration of the choices that do exist, for suggestions."""
    choices = []
    with _hydra(search) as extra:
        for override in overrides:
            group, _, choice = override.partition("=")
            if group not in RECIPES and choice in _options(group, extra):
                choices.append(override)
        return hydra.compose(name, [*extra, *choices])


def _options(group: str, extra: list[str]) -> list[str]:
    loader = GlobalHydra.instance().config_loader()
    return loader.get_group_options(group, overrides=extra)


def _no_choice(missing: str, search: Sequence[str]) -> UserError:
    group, _, choice = missing.rpartition("/")
    with _hydra(search) as extra:
        options = _options(group, extra)
    listed = f" The choices are {', '.join(options)}." if options else ""
    return UserError(f"There is no {group}={choice}.{nearest(choice, options)}{listed}")
