"""What a run writes besides its checkpoints and its log may fail; the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from lightning import Callback
from lightning.pytorch.loggers import Logger

from maskwell.errors import UserError, warn

CallbackType = TypeVar("CallbackType", bound=Callback)
LoggerType = TypeVar("LoggerType", bound=Logger)

_LOGGER_METHODS = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize", "after_save_checkpoint")


def shelter_callback(callback: CallbackType) -> CallbackType:
    """A hook that cannot write (a full disk, a folder that is gone) is told once and skipped."""
    for name in dir(Callback):
        hook = getattr(type(callback), name, None)
        if name.startswith("on_") and hook is not getattr(Callback, name):
            setattr(callback, name, partial(_guarded, getattr(callback, name), OSError, []))
    return callback


def shelter_logger(logger: LoggerType) -> LoggerType:
    """Whatever goes wrong in a logger (its server has vanished) is told once per method and skipped."""
    for name in _LOGGER_METHODS:
        setattr(logger, name, partial(_guarded, getattr(logger, name), Exception, []))
    return logger


def _guarded(
    method: Callable[..., Any], errors: type[Exception], told: list[bool], *args: Any, **kwargs: Any
) -> Any:
    """Call ``method``; ``told`` is filled at the first error."""
    try:
        return method(*args, **kwargs)
    except UserError:
        raise
    except errors as error:
        if not told:
            told.append(True)
            owner = type(getattr(method, "__self__", method)).__name__
            reason = " ".join(str(error).split())
            warn(f"{owner} could not do its work ({type(error).__name__}: {reason}); training goes on")
        return None
