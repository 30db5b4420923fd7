from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maskwell import api, checkpoint, restore
from maskwell.errors import UserError
from maskwell.export import weights
from maskwell.export.__main__ import main
from trained import spots, write_run


def test_weights_come_back_as_the_same_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "runs" / "sam_lora" / "2026-01-01_00-00-00")
    main([str(run), "exported"])
    for name in ("model.safetensors", "README.md", "merged/config.json", "adapter/adapter_config.json"):
        assert (tmp_path / "exported" / name).is_file(), name
    told = (tmp_path / "exported" / "README.md").read_text()
    assert "nucleus, fibre, debris" in told and "`adapter/`" in told and "family `sam_lora`" in told

    ours = restore.restore(run / "checkpoints" / "best.ckpt").task.state_dict()
    theirs = restore.restore(tmp_path / "exported" / "model.safetensors").task.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    model = api.load("exported/model.safetensors")
    assert model.phrases == ("cell nucleus", "fibre", "debris")
    assert model.predict(spots((64, 64)), threshold=0.0).count > 0

    with pytest.raises(SystemExit):
        main([str(run), "exported"])  # not empty any more


def test_only_what_training_needs_is_left_out(tmp_path: Path) -> None:
    header = {"format": checkpoint.FORMAT, "family": "detr", "config": "a: 1"}
    shared = torch.arange(6.0).reshape(2, 3)
    content = {
        "state_dict": {"a": shared, "b": shared.T},  # one memory, not contiguous
        "optimizer_states": [{"state": shared}],
        "loops": {},
        "categories": ["x"],
        "threshold": 0.4,
        checkpoint.HEADER: header,
    }
    weights.write(content, tmp_path / "m.safetensors")
    back = weights.read(tmp_path / "m.safetensors")
    assert back.keys() == {"state_dict", "categories", "threshold", checkpoint.HEADER}
    assert torch.equal(back["state_dict"]["b"], shared.T) and back["threshold"] == 0.4
    assert back[checkpoint.HEADER] == header


@pytest.mark.parametrize("kind", ["missing", "damaged", "foreign"])
def test_other_files_are_a_sentence(tmp_path: Path, kind: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "m.safetensors"
    if kind == "damaged":
        path.write_bytes(b"no tensors here")
    elif kind == "foreign":
        save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=str(path)):
        weights.read(path)
