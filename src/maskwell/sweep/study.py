"""An Optuna study whose trials are trainings in processes of their own; interrupted ones are gone on with."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from maskwell.errors import TRY_AGAIN, UserError
from maskwell.sweep import trial_process
from maskwell.sweep.search import Search, SweepConfig

if TYPE_CHECKING:
    from optuna import Study, Trial


JOURNAL = "journal:///"
PATIENCE = 60
"""Seconds to wait for another process's writing."""


class TrialFailed(Exception):
    """A trial's program ended with an error: recorded, and the study goes on."""


def run(search: Search) -> Study:
    """Go on with the study until it has its trials; interrupted ones are gone on with first.

    Several processes may work on one study at once: the same command, on machines that reach its storage.
    """
    optuna = _optuna()
    search.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(search.folder / "study.lock")
    with lock:
        try:
            study = optuna.create_study(
                study_name=search.study,
                storage=_storage(search.storage),
                load_if_exists=True,
                direction="maximize" if search.mode == "max" else "minimize",
                pruner=_pruner(search.config),
            )
        except Exception as error:  # whatever the storage's driver raises; the address may hold a password
            raise UserError(f"sweep.storage cannot be opened ({type(error).__name__}); check it.") from error
        _check_same(study, search)
        _recover(study, search)
        for point in search.grid or []:
            study.enqueue_trial(point, skip_if_exists=True)
        study.sampler = _sampler(search, len(study.trials))
    print(
        f"study {search.study}: {search.metric} ({search.mode}), {counted(study)} of {search.trials} trials"
    )
    while (trial := _next(study, search, lock)) is not None:
        _make(study, trial, search)
    return study


def _next(study: Study, search: Search, lock: FileLock) -> Trial | None:
    """The next trial, which no process beside this one makes; None where enough are made or being made."""
    with lock:
        if _queued(study) or _begun(study) < search.trials:
            trial = study.ask()
            # at once: a search that starts now takes a trial without an owner for one that was cut off
            trial.set_user_attr("host", socket.gethostname())
            trial.set_user_attr("owner", trial_process.identity())
            return trial
    return None


def _make(study: Study, trial: Trial, search: Search) -> None:
    """Train, and tell the study what became of it."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    try:
        study.tell(trial, _objective(trial, search))
    except TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except TrialFailed:
        study.tell(trial, state=TrialState.FAIL)
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        raise


def counted(study: Study) -> int:
    """Trials that ended by themselves or were pruned; an interrupted one is not among them."""
    return sum("exit" in trial.user_attrs for trial in study.trials)


def _begun(study: Study) -> int:
    """These, and trials that run in other processes now; of one look, for they may end between two."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    return sum("exit" in trial.user_attrs or trial.state == TrialState.RUNNING for trial in trials)


def _queued(study: Study) -> int:
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def _objective(trial: Trial, search: Search) -> float:
    """Train with the trial's values; the best of the metric."""
    from optuna import TrialPruned

    overrides = [f"{key}={entry.suggest(trial, key)}" for key, entry in search.space.items()]
    name = trial.user_attrs.get("folder") or trial_process.folder_name(trial.number)
    trial.set_user_attr("folder", name)
    print(f"trial {trial.number}: {' '.join(overrides)}")
    folder = search.folder / name
    process = trial_process.TrialProcess(search.program, folder, [*search.fixed, *overrides])
    trial.set_user_attr("process", trial_process.identity(process.process.pid))
    reported: set[int] = set()

    def look() -> str | None:
        for step, value in trial_process.values(folder, search.metric):
            if step not in reported:
                reported.add(step)
                trial.report(value, step)
        if reason := trial_process.broken(folder):
            return reason
        enough = len(reported) >= search.config.warmup_values
        return "worse than the others so far" if enough and trial.should_prune() else None

    ended = process.watch(search.config.poll_seconds, look)
    if ended.code == TRY_AGAIN and ended.reason is None:
        raise TrialFailed("stopped from outside; the same command goes on with it")
    trial.set_user_attr("exit", ended.code)
    if ended.reason:
        _note(trial, "pruned", ended.reason)
        raise TrialPruned(ended.reason)
    values = [value for _, value in trial_process.values(folder, search.metric)]
    if ended.code or not values:
        told = process.last_words() if ended.code else f"{search.metric} was never logged"
        _note(trial, "failed", f"exit code {ended.code}: {told}")
        raise TrialFailed(told)
    best = max(values) if search.mode == "max" else min(values)
    _note(trial, "done", f"{search.metric} {best:.4f}")
    return best


def _note(trial: Trial, state: str, text: str) -> None:
    trial.set_user_attr("note", text)
    print(f"trial {trial.number}: {state}, {text}")


def _recover(study: Study, search: Search) -> None:
    """Trials whose search was cut off are ended and queued again, to go on in their folders."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if trial.user_attrs.get("host", socket.gethostname()) != socket.gethostname():
            continue  # another machine's, which knows better
        owner = trial.user_attrs.get("owner")
        if owner and trial_process.still_runs(owner):
            continue  # a search beside this one
        if process := trial_process.still_runs(trial.user_attrs.get("process", (0, 0))):
            trial_process.end(process)
        study.tell(trial.number, state=TrialState.FAIL)
    trials = study.get_trials(states=(TrialState.FAIL, TrialState.WAITING))
    gone_on = {trial.user_attrs.get("continues") for trial in study.get_trials(deepcopy=False)}
    for trial in trials:
        cut_off = trial.state == TrialState.FAIL and "exit" not in trial.user_attrs
        if cut_off and trial.number not in gone_on and set(trial.params) == set(search.space):
            attributes = {"continues": trial.number, "folder": trial.user_attrs["folder"]}
            study.enqueue_trial(trial.params, user_attrs=attributes)


def _check_same(study: Study, search: Search) -> None:
    """A study searches one space: other keys, or another fixed part, are another study."""
    wanted = {"space": sorted(map(str, search.space.items())), "fixed": list(search.fixed)}
    stored = study.user_attrs.get("search")
    if stored is None:
        study.set_user_attr("search", wanted)
    elif stored != wanted:
        raise UserError(
            f"The study '{search.study}' searches something else; name a new one: sweep.study=NAME."
        )


def _storage(address: str) -> Any:
    """Of an address of SQLAlchemy, or ``journal:///FILE``, which machines may share on a network disk."""
    from optuna import storages
    from optuna.storages.journal import JournalFileBackend

    if address.startswith(JOURNAL):
        backend = JournalFileBackend(address.removeprefix(JOURNAL))
        return storages.JournalStorage(backend)
    if address.startswith("sqlite:"):  # processes beside this one write too
        return storages.RDBStorage(address, engine_kwargs={"connect_args": {"timeout": PATIENCE}})
    return address


def _sampler(search: Search, told: int) -> Any:
    """``told``: trials so far; a study that goes on must not draw its first values again."""
    from optuna import samplers

    seed = search.config.seed + told
    if search.grid or search.config.sampler == "random":
        return samplers.RandomSampler(seed=seed)
    return samplers.TPESampler(seed=seed, constant_liar=True)


def _pruner(config: SweepConfig) -> Any:
    from optuna import pruners

    if config.pruner == "none":
        return pruners.NopPruner()
    return pruners.MedianPruner(n_startup_trials=config.startup_trials)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError("A search needs Optuna: pip install 'maskwell[sweep]'.") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what fails is told in one line
    return optuna
