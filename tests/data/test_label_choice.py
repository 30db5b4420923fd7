"""Which images are labelled: counts, evenness, lists, groups and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maskwell.data.label_choice import LabelChoice, choose_labelled, unlabelled_images
from maskwell.data.source import ImageFile, Split
from maskwell.errors import UserError


def frames(*drives: tuple[str, int]) -> list[ImageFile]:
    return [
        ImageFile(f"train/{drive}_{i}.png", Path(f"{drive}_{i}.png"), drive)
        for drive, n in drives
        for i in range(n)
    ]


def chosen(files: list[ImageFile], seed: int = 0, **choice: object) -> list[int]:
    return choose_labelled(files, LabelChoice(**choice), seed)  # type: ignore[arg-type]


@pytest.mark.parametrize(("labelled", "count"), [(0.125, 5), (0.5, 20), (1.0, 40), (1, 1), (7, 7), (40, 40)])
@pytest.mark.parametrize("how", ["even", "random"])
def test_shares_are_floats_and_numbers_are_ints(labelled: float, count: int, how: str) -> None:
    indices = chosen(frames(("a", 40)), labelled=labelled, how=how)
    assert len(indices) == len(set(indices)) == count and indices == sorted(indices)


@pytest.mark.parametrize("seed", range(5))
def test_even_is_even_in_time_and_over_drives(seed: int) -> None:
    files = frames(("a", 62), ("b", 101), ("c", 204))
    shuffled = [files[i] for i in np.random.default_rng(1).permutation(len(files))]
    names = {shuffled[i].name for i in chosen(shuffled, seed, labelled=0.125)}
    places = [i for i, file in enumerate(files) if file.name in names]
    assert len(places) == 46
    assert set(np.diff(places)) <= {7, 8}
    counts = [sum(files[i].group == drive for i in places) for drive in "abc"]
    assert all(abs(count - n / 367 * 46) < 1 for count, n in zip(counts, (62, 101, 204), strict=True))


def test_the_choice_is_a_function_of_the_seed() -> None:
    files = frames(("a", 80))
    for how in ("even", "random"):
        assert chosen(files, 3, labelled=10, how=how) == chosen(files, 3, labelled=10, how=how)
        assert len({tuple(chosen(files, seed, labelled=10, how=how)) for seed in range(6)}) > 3
    gaps = np.diff(chosen(files, labelled=10, how="random"))
    assert gaps.max() > 12


def test_images_without_labels_are_never_labelled() -> None:
    files = [ImageFile(f"{i}.png", Path(f"{i}.png"), None, i % 2 == 0) for i in range(20)]
    assert chosen(files) == list(range(0, 20, 2))
    assert len(chosen(files, labelled=0.25)) == 5
    with pytest.raises(UserError, match="asks for 11 labelled images, but only 10 of the 20"):
        chosen(files, labelled=11)


def test_a_list_names_images_with_or_without_folder_and_suffix(tmp_path: Path) -> None:
    path = tmp_path / "labelled.txt"
    path.write_text("a_3\n\ntrain/a_1.png\na_7.png\na_3.png\n", encoding="utf-8")
    assert chosen(frames(("a", 9)), labelled_list=str(path)) == [1, 3, 7]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "a_1\nx\ny\nz\nw\n",
            r"labelled\.txt' names 4 images not among the training images: 'x', 'y', 'z', \.\.\.;",
        ),
        ("twin\n", "names 1 image by a name that several training images have: 'twin'"),
        ("bare\n", r"names 1 image without a mask: 'train/bare\.png'"),
        ("\n", "names 0 images"),
    ],
)
def test_bad_lists_are_a_sentence(tmp_path: Path, lines: str, message: str) -> None:
    files = [
        *frames(("a", 3)),
        ImageFile("train/m/twin.png", Path("twin.png")),
        ImageFile("train/n/twin.png", Path("twin.png")),
        ImageFile("train/bare.png", Path("bare.png"), None, False),
    ]
    path = tmp_path / "labelled.txt"
    path.write_text(lines, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        chosen(files, labelled_list=str(path))


def test_bad_choices_are_a_sentence(tmp_path: Path) -> None:
    files = frames(("a", 20))
    with pytest.raises(UserError, match=r"data\.labelled=0\.01 of 20 training images gives 0 labelled"):
        chosen(files, labelled=0.01)
    for wrong in (0.0, -0.5, 1.5, 0, -3, True, "1/8"):
        with pytest.raises(UserError, match=f"data.labelled={wrong}: give a share"):
            LabelChoice(wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="both set"):
        LabelChoice(0.5, "x.txt")
    with pytest.raises(UserError, match="labelled_choice=every"):
        LabelChoice(how="every")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="nowhere' cannot be read"):
        chosen(files, labelled_list=str(tmp_path / "nowhere"))


class Files:
    def __init__(self, **splits: list[ImageFile]) -> None:
        self.splits = splits

    def files(self, split: Split) -> list[ImageFile]:
        return self.splits.get(split, [])


def test_unlabelled_images_share_no_group_with_evaluated_ones() -> None:
    train = [*frames(("a", 3), ("b", 3), ("c", 3)), ImageFile("train/z.png", Path("z.png"))]
    alone = ImageFile("val/y.png", Path("y.png"))
    source = Files(train=train, val=[*frames(("b", 1)), alone], test=frames(("c", 1)))
    assert unlabelled_images(source, [0, 4]) == [1, 2, 9]  # type: ignore[arg-type]
