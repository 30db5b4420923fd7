"""Hostile input: every reader loads it or refuses it in one sentence; no code runs from it."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz, hostile, hostile_readers
from maskwell import build, reading, restore, runs
from maskwell.checkpoint import HEADER
from maskwell.data import rle
from maskwell.data.coco import CocoSource
from maskwell.data.convert import convert
from maskwell.data.images import read_image
from maskwell.errors import UserError

few = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def watch() -> fuzz.Watch:
    hostile_readers.load()
    return fuzz.Watch()


@pytest.mark.parametrize("form", sorted(hostile_readers.FORMS))
@few
@given(number=st.integers(0, 2**31))
def test_an_input_is_loaded_or_refused(form: str, number: int, watch: fuzz.Watch) -> None:
    kind, evidence = fuzz.outcome(form, number, watch)
    assert kind in ("loaded", "refused"), evidence
    assert (kind == "refused") == bool(evidence)


def read_coco(folder: Path, content: Any) -> None:
    folder.mkdir(exist_ok=True)
    if not (folder / "images").exists():
        for name in ("1.png", "2.png"):
            hostile.put(folder, f"images/{name}", hostile.image_bytes(random.Random(0)))
    (folder / "train.json").write_text(json.dumps(content), encoding="utf-8")
    source = CocoSource(str(folder), val_split=0.0, test_split=0.0, near_duplicates=False)
    source.setup()
    for index in range(source.size("train")):
        source.read("train", index, 0, None)


COCO_KEYS = (
    *("id", "image_id", "category_id", "bbox", "segmentation", "area", "iscrowd", "keypoints"),
    *("file_name", "height", "name", "group"),
)


@few
@given(
    place=st.sampled_from(["images", "annotations", "categories"]),
    row=st.integers(0, 1),
    key=st.sampled_from(COCO_KEYS),
    value=json_values,
)
def test_any_value_at_any_key_of_coco(tmp_path: Path, place: str, row: int, key: str, value: Any) -> None:
    content = hostile.coco(random.Random(0))
    content[place][row][key] = value
    try:
        read_coco(tmp_path / "coco", content)
    except UserError as error:
        assert "\n" not in str(error)


@few
@given(line=st.text(max_size=40) | st.lists(st.floats(), max_size=8).map(lambda v: " ".join(map(str, v))))
def test_any_line_of_a_yolo_label(tmp_path_factory: pytest.TempPathFactory, line: str) -> None:
    folder = tmp_path_factory.mktemp("yolo")
    hostile.put(folder, "in/images/1.png", hostile.image_bytes(random.Random(0)))
    hostile.put(folder, "in/classes.txt", "cell\nfibre\n")
    hostile.put(folder, "in/labels/1.txt", line)
    try:
        convert("yolo", folder / "in", folder / "out")
    except UserError as error:
        assert "\n" not in str(error)


@few
@given(text=st.text(max_size=60) | json_values.map(yaml.safe_dump))
def test_any_text_as_a_stored_configuration(text: str) -> None:
    with pytest.raises(UserError):
        cfg = restore.stored_config({HEADER: {"config": text}}, Path("x.ckpt"))
        build.family(cfg)


@few
@given(counts=st.binary(max_size=30), size=st.tuples(st.integers(1, 50), st.integers(1, 50)))
def test_any_bytes_as_run_lengths(counts: bytes, size: tuple[int, int]) -> None:
    try:
        runs_found = rle.decode([{"size": list(size), "counts": counts}])
    except ValueError:
        return
    assert int(runs_found.length.sum()) <= size[0] * size[1]
    assert (runs_found.start >= 0).all()


@pytest.mark.parametrize("target", hostile.TARGETS)
@pytest.mark.parametrize("group", ["model", "data", "callbacks"])
def test_a_checkpoint_cannot_name_what_is_called(target: str, group: str) -> None:
    tree = hostile.config()
    tree[group]["mine"] = {"_target_": target, "command": f"touch {hostile.CANARY}"}
    if group != "callbacks":
        tree[group] = tree[group]["mine"]
    cfg = restore.stored_config({HEADER: {"config": yaml.safe_dump(tree)}}, Path("x.ckpt"))
    with pytest.raises(UserError, match="_target_ names"):
        build.check_node(cfg[group], group)
    assert not Path(hostile.CANARY).exists()


@pytest.mark.parametrize("name", ["../outside.png", "/etc/passwd", "a/../../outside.png", "C:\\outside.png"])
def test_images_outside_the_root_are_not_read(tmp_path: Path, name: str) -> None:
    hostile.put(tmp_path, "outside.png", hostile.image_bytes(random.Random(0)))
    content = hostile.coco(random.Random(0))
    content["images"][0]["file_name"] = name
    with pytest.raises(UserError, match="leaves the image folder"):
        read_coco(tmp_path / "coco", content)


def test_limits_on_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "long.txt").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match=r"at most 0 are read of such a file"):
        reading.read_bytes(tmp_path / "long.txt", most=99)
    for number in range(8):
        hostile.put(tmp_path, "claims.png", hostile.claims_much(random.Random(number)))
        with pytest.raises(UserError, match=r"bomb|cannot be decoded"):
            read_image(tmp_path / "claims.png")


@pytest.mark.parametrize(
    "text", [hostile.yaml_bomb("names"), "- " * 60 + "x", "a: &x [*x]", "\tx: 1", "a: 2026-99-99"]
)
def test_yaml_that_grows_or_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=r"alias|nested|no valid YAML"):
        reading.load_yaml(tmp_path / "data.yaml")
    (tmp_path / runs.CONFIG).write_text(text)
    if "2026" not in text:  # a date is a text to OmegaConf
        with pytest.raises(UserError):
            runs.load(tmp_path)


@pytest.mark.parametrize("text", ["0", "[1]", "", "text", "a: ${nothing}", "a: {b: ???}"])
def test_a_stored_configuration_has_keys_and_a_model(text: str) -> None:
    with pytest.raises(UserError):
        restore.stored_config({HEADER: {"config": text}}, Path("x.ckpt"))


def test_an_outline_without_end_is_refused(tmp_path: Path) -> None:
    """The encoder's memory grows with the way along an outline, which a small file can make long."""
    content = hostile.coco(random.Random(0))
    content["annotations"][0]["segmentation"] = [[0, 0, 1e6, 1e6] * 50]
    with pytest.raises(UserError, match="longer than any in an image"):
        read_coco(tmp_path / "coco", content)


def test_xml_entities_are_not_expanded(tmp_path: Path) -> None:
    hostile.put(tmp_path, "in/JPEGImages/1.png", hostile.image_bytes(random.Random(0)))
    hostile.put(tmp_path, "in/Annotations/1.xml", hostile.bomb())
    with pytest.raises(UserError, match="declares a document type"):
        convert("voc", tmp_path / "in", tmp_path / "out")


def test_the_watch_sees_what_it_is_there_for(tmp_path: Path, watch: fuzz.Watch) -> None:
    """An escape and a started program are noticed, or the counts would mean nothing."""
    watch.escapes, watch.executed, watch.folder = [], [], tmp_path / "in"
    try:
        (tmp_path / "outside.txt").write_text("x")
        with pytest.raises(FileNotFoundError):
            __import__("subprocess").run([str(tmp_path / "no_program")], check=False)
    finally:
        watch.folder = None
    assert watch.escapes == [str(tmp_path / "outside.txt")]
    assert watch.executed and watch.executed[0].startswith("subprocess.Popen")


def test_a_name_is_let_through_where_it_would_be_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a plain value it does nothing; where the check of targets is gone, the reader says so."""
    content = hostile.config()
    content["data"]["num_train"] = "os.system"
    hostile.put(tmp_path, "config.yaml", yaml.safe_dump(content))
    read = fuzz.FORMS["config"].read
    read(tmp_path)
    content["data"]["augment"] = [{"_target_": "os.system"}]
    hostile.put(tmp_path, "config.yaml", yaml.safe_dump(content))
    with pytest.raises(UserError, match="outside the packages"):
        read(tmp_path)
    monkeypatch.setattr("maskwell.build.check_node", lambda *_: None)
    with pytest.raises(hostile_readers.LetThrough, match=r"os\.system"):
        read(tmp_path)


def test_a_block_counts_what_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(folder: Path) -> None:
        fate = (folder / "fate").read_text()
        if fate == "tracebacks":
            raise ValueError("a fault")
        if fate == "crashes":
            os._exit(9)
        while fate == "hangs":
            pass

    def fate(rng: random.Random) -> str:
        return rng.choice(("loaded", "loaded", "tracebacks", "crashes", "hangs"))

    def write(rng: random.Random, folder: Path, mutated: bool) -> None:
        hostile.put(folder, "fate", fate(rng))

    monkeypatch.setitem(hostile_readers.FORMS, "played", hostile_readers.Reader(write, read))
    monkeypatch.setattr(fuzz, "SECONDS", 1)
    expected = [fate(random.Random(f"played/{number}")) for number in range(8)]
    assert {"tracebacks", "crashes", "hangs"} <= set(expected)
    found = fuzz.block("played", 0, 8)
    assert found["counts"] == {kind: expected.count(kind) for kind in expected}
    assert {int(n): text.partition(":")[0] for n, text in found["evidence"].items()} == {
        number: kind for number, kind in enumerate(expected) if kind != "loaded"
    }
