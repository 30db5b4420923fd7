"""The adapter folder follows the best checkpoint, not the last."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from maskwell.callbacks.adapter_checkpoint import AdapterCheckpoint


class Task:
    """Writes its current state as an "adapter"."""

    def __init__(self, has_adapter: bool = True) -> None:
        self.state, self.has_adapter = "fresh", has_adapter

    def save_adapter(self, folder: Path) -> bool:
        if self.has_adapter:
            folder.mkdir(parents=True)
            (folder / "adapter").write_text(self.state)
        return self.has_adapter


def trainer(score: float | None) -> Any:
    kept = ModelCheckpoint(monitor="val/map", mode="max")
    kept.best_model_score = None if score is None else torch.tensor(score)
    return SimpleNamespace(is_global_zero=True, sanity_checking=False, checkpoint_callbacks=[kept])


def validate(callback: AdapterCheckpoint, task: Any, state: str, best: float | None) -> None:
    task.state = state
    callback.on_validation_end(trainer(best), task)


def test_a_worse_validation_leaves_the_best_adapter(tmp_path: Path) -> None:
    callback, task = AdapterCheckpoint(str(tmp_path / "adapter")), Task()
    validate(callback, task, "first", 0.3)
    validate(callback, task, "worse", 0.3)
    assert (tmp_path / "adapter" / "adapter").read_text() == "first"
    validate(callback, task, "better", 0.4)
    assert (tmp_path / "adapter" / "adapter").read_text() == "better"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_resumed_run_does_not_write_the_older_best_anew(tmp_path: Path) -> None:
    callback, task = AdapterCheckpoint(str(tmp_path / "adapter")), Task()
    validate(callback, task, "best", 0.5)
    resumed = AdapterCheckpoint(str(tmp_path / "adapter"))
    resumed.load_state_dict(callback.state_dict())
    validate(resumed, task, "last", 0.5)
    assert (tmp_path / "adapter" / "adapter").read_text() == "best"


def test_without_an_adapter_or_a_score_there_is_no_folder(tmp_path: Path) -> None:
    callback = AdapterCheckpoint(str(tmp_path / "adapter"))
    validate(callback, Task(), "unscored", None)
    validate(callback, Task(has_adapter=False), "full", 0.3)
    assert not list(tmp_path.iterdir())
