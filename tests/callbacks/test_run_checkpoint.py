from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maskwell.callbacks.run_checkpoint import RunCheckpoint
from maskwell.errors import UserError
from tests.callbacks.modules import Automatic, loader, trainer


def _fit(folder: Path, losses: list[float], **more: object) -> RunCheckpoint:
    module = Automatic()
    module.val_losses = losses
    kept = RunCheckpoint(str(folder / "checkpoints"))
    settings = {"max_epochs": len(losses), "enable_checkpointing": True, **more}
    trainer(folder, kept, **settings).fit(module, loader(), loader())
    return kept


def _epoch(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["epoch"])


def test_best_and_last_lie_side_by_side(tmp_path: Path) -> None:
    kept = _fit(tmp_path, [3.0, 1.0, 2.0, 2.5])
    folder = tmp_path / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert _epoch(folder / "best.ckpt") == 1 and _epoch(folder / "last.ckpt") == 3
    assert kept.best_model_path == str(folder / "best.ckpt") and kept.best_model_score == 1.0


def test_what_was_learnt_after_the_last_validation_is_kept(tmp_path: Path) -> None:
    _fit(tmp_path, [3.0], max_steps=6, max_epochs=5)
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 6


def test_a_resumed_run_knows_its_best(tmp_path: Path) -> None:
    _fit(tmp_path, [3.0, 1.0])
    last = tmp_path / "checkpoints" / "last.ckpt"
    module = Automatic()
    module.val_losses = [9.0, 9.0, 2.0]
    kept = RunCheckpoint(str(tmp_path / "checkpoints"))
    trainer(tmp_path, kept, max_epochs=3, enable_checkpointing=True).fit(
        module, loader(), loader(), ckpt_path=str(last), weights_only=True
    )
    assert kept.best_model_score == 1.0 and _epoch(tmp_path / "checkpoints" / "best.ckpt") == 1
    assert _epoch(last) == 2


def test_a_bad_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"callbacks\.checkpoint\.mode"):
        RunCheckpoint(str(tmp_path), mode="best")  # type: ignore[arg-type]
