"""Checkpoint files: whole or not at all, data and never code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from maskwell import checkpoint
from maskwell.errors import UserError


class Code:
    """Pickles as a call."""

    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/never",)


def header(**changes: Any) -> dict[str, Any]:
    return {"maskwell": {"format": checkpoint.FORMAT, "family": "points", "config": "seed: 1", **changes}}


def test_plugin_adds_family_format_and_configuration(tmp_path: Path) -> None:
    plugin = checkpoint.AtomicCheckpointIO("points", "seed: 1\n")
    path = tmp_path / "new" / "last.ckpt"
    plugin.save_checkpoint({"state_dict": {"w": torch.arange(3.0)}}, path)
    content = plugin.load_checkpoint(path)
    assert content["maskwell"] == {"format": 1, "family": "points", "config": "seed: 1\n"}
    assert torch.equal(content["state_dict"]["w"], torch.arange(3.0))
    plugin.remove_checkpoint(path)
    plugin.remove_checkpoint(path)  # gone already
    assert list(path.parent.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    checkpoint.write({"n": 1, **header()}, path)

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.write({"n": 2, **header()}, path)
    monkeypatch.undo()
    assert checkpoint.read(path)["n"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({**header(), "hyper_parameters": Code()}, path)
    with pytest.raises(UserError, match="holds pickled code and is not loaded"):
        checkpoint.read(path)
    assert not Path("/tmp/never").exists()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_cut_off_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.ckpt"
    checkpoint.write({"w": torch.zeros(100), **header()}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=r"cut\.ckpt is damaged or is no checkpoint"):
        checkpoint.read(path)


def test_other_refusals(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with pytest.raises(UserError, match="There is no checkpoint"):
        checkpoint.read(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match="not written by maskwell"):
        checkpoint.read(path)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="not written by maskwell"):
        checkpoint.read(path)
    torch.save(header(format=checkpoint.FORMAT + 1), path)
    with pytest.raises(UserError, match="update maskwell"):
        checkpoint.read(path)
    torch.save(header(), path)
    with pytest.raises(UserError, match="family 'points', not of 'detr'"):
        checkpoint.read(path, "detr")
    assert checkpoint.read(path, "points")["maskwell"]["config"] == "seed: 1"
