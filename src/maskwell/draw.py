"""All drawing: masks, boxes, points and class maps over an image, and truth beside prediction.

Images are uint8 RGB arrays [H, W, 3]. What is drawn comes in the window frame, the pixels of that
image (:class:`~maskwell.data.sample.Truth`, :class:`~maskwell.data.sample.Prediction`).
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from maskwell.data.sample import IGNORE, MarkedState, Prediction, Truth

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
Place = tuple[float, float, float, float]

MIN_SIDE = 384
"""Smaller images are enlarged until their shorter side has this many pixels, so that text is legible."""
MAX_SIDE = 1024
"""Larger images are shrunk until their longer side has at most this many pixels."""
_FILL = 0.35
_FONT_SIZE = 14
_BAR: Colour = (28, 30, 34)
_PAPER: Colour = (245, 245, 243)
_TRUE: Colour = (60, 230, 80)
_FALSE: Colour = (255, 70, 60)
_ERROR: Colour = (255, 225, 40)
_BACKGROUND_NAMES = {"background", "void", "unlabelled", "unlabeled"}


def colour(index: int) -> Colour:
    """The colour of the ``index``-th object or class; neighbours in the count lie far apart in hue."""
    hue = (0.11 + index * 0.618034) % 1.0  # the golden ratio never comes near an earlier hue soon
    saturation = (0.90, 0.65)[(index // 6) % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def overlay(
    image: Pixels,
    objects: Prediction | Truth,
    names: Sequence[str] = (),
    *,
    threshold: float = 0.0,
    points: npt.NDArray[np.floating] | None = None,
    min_side: int = MIN_SIDE,
    max_side: int = MAX_SIDE,
) -> Pixels:
    """Draw everything that ``objects`` holds: a class map, masks or else boxes, labels, points.

    Args:
        image: uint8 [H, W, 3].
        objects: truth, or a prediction of which scores below ``threshold`` are left out.
        names: category names by label; scores stand alone where there is one category only.
        threshold: lowest score that is drawn.
        points: float [K, 2] (x, y) in pixels of ``image``, drawn as numbered marks; a prediction's
            own points are taken where this is None.
        min_side: see :data:`MIN_SIDE`.
        max_side: see :data:`MAX_SIDE`.

    Returns:
        uint8 [h, w, 3] at the drawing's scale.
    """
    canvas, scale = _to_canvas(image, min_side, max_side)
    if objects.semantic is not None:
        canvas = _tint_classes(canvas, objects.semantic.numpy(), names)
    keep = _kept(objects, threshold)
    scores = objects.scores.tolist() if isinstance(objects, Prediction) else None
    if points is None and isinstance(objects, Prediction) and objects.points is not None:
        points = objects.points[keep].numpy()
    if objects.rles is not None:
        for order, index in enumerate(keep):
            _paint_mask(canvas, coco_mask.decode(objects.rles[index]), colour(order))
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    if points is not None:
        _number_points(pen, points * scale)
    elif objects.semantic is None:
        boxes = (objects.boxes[keep] * scale).tolist()
        if objects.rles is None:
            _outline_boxes(pen, boxes)
        words = [_wordings(int(objects.labels[i]), names, scores[i] if scores else None) for i in keep]
        _write_labels(pen, boxes, words, picture.size)
    canvas = np.asarray(picture)
    return canvas if objects.semantic is None else _with_legend(canvas, objects.semantic.numpy(), names)


def panel(
    image: Pixels,
    truth: Truth,
    prediction: Prediction,
    names: Sequence[str] = (),
    *,
    title: str = "",
    caption: str = "",
    threshold: float = 0.5,
    truth_points: npt.NDArray[np.floating] | None = None,
    side: int = MIN_SIDE,
) -> Pixels:
    """Ground truth beside prediction, with a title bar over each and a caption below.

    ``side`` bounds the pictures: the shorter side has at least, the longer at most twice as many
    pixels.
    """
    left = overlay(image, truth, names, points=truth_points, min_side=side, max_side=2 * side)
    right = overlay(image, prediction, names, threshold=threshold, min_side=side, max_side=2 * side)
    height = max(left.shape[0], right.shape[0])
    shown = len(_kept(prediction, threshold))
    found = f"prediction: {shown}"
    if len(prediction.scores):
        found += f" (score >= {threshold:.3g}; highest {prediction.scores.max().item():.2f})"
    headings = (f"truth: {len(truth.labels)}", found)
    if truth.semantic is not None:
        headings = ("truth", "prediction")
    columns = [
        np.vstack([_bar(heading, picture.shape[1]), _pad_below(picture, height)])
        for heading, picture in zip(headings, (left, right), strict=True)
    ]
    gap = np.full((columns[0].shape[0], 6, 3), _PAPER, np.uint8)
    body = np.hstack([columns[0], gap, columns[1]])
    parts = [body]
    if title:
        parts.insert(0, _text_strip(title, body.shape[1], ink=(255, 255, 255), paper=_BAR))
    if caption:
        parts.append(_text_strip(caption, body.shape[1], ink=_BAR, paper=_PAPER))
    return np.vstack(parts)


def state_panel(image: Pixels, state: MarkedState, error: float | None, caption: str) -> Pixels:
    """The marked input beside what comes next: truth green, prediction red, a yellow line for the error.

    Args:
        image: uint8 [H, W, 3].
        state: in its pixels.
        error: written on the line, as ``err=NNpx``; None where the state has no target.
        caption: below both.
    """
    canvas, scale = _to_canvas(image, MIN_SIDE, 2 * MIN_SIDE)
    marked, predicted = Image.fromarray(canvas), Image.fromarray(canvas)
    _number_points(ImageDraw.Draw(marked), state.marks.numpy() * scale)
    pen = ImageDraw.Draw(predicted)
    red = tuple((state.predicted * scale).tolist())
    if state.target is not None:
        green = tuple((state.target * scale).tolist())
        pen.line((*red, *green), fill=_ERROR, width=2)
        _ring(pen, green, _TRUE)
        middle = ((red[0] + green[0]) / 2 + 6, (red[1] + green[1]) / 2 + 12)
        _shadowed(pen, middle, f"err={error:.0f}px", _ERROR, predicted.size)
    _ring(pen, red, _FALSE)
    _shadowed(pen, (6, 4), f"pred_done={state.done:.2f}", _FALSE, predicted.size)
    _shadowed(pen, (6, 22), f"gt_done={int(state.finished)}", _TRUE, predicted.size)
    headings = (f"input: {len(state.marks)} marked", "prediction")
    columns = [
        np.vstack([_bar(heading, canvas.shape[1]), np.asarray(picture)])
        for heading, picture in zip(headings, (marked, predicted), strict=True)
    ]
    gap = np.full((columns[0].shape[0], 6, 3), _PAPER, np.uint8)
    body = np.hstack([columns[0], gap, columns[1]])
    return np.vstack([body, _text_strip(caption, body.shape[1], ink=_BAR, paper=_PAPER)])


def stack(panels: Sequence[Pixels], gap: int = 10) -> Pixels:
    """Panels below one another on a sheet as wide as the widest."""
    width = max(p.shape[1] for p in panels)
    rows: list[Pixels] = []
    for one in panels:
        rows.append(np.full((gap, width, 3), _PAPER, np.uint8))
        filler = np.full((one.shape[0], width - one.shape[1], 3), _PAPER, np.uint8)
        rows.append(np.hstack([one, filler]))
    return np.vstack(rows[1:])


@lru_cache
def _font(size: int = _FONT_SIZE) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _to_canvas(image: Pixels, min_side: int, max_side: int) -> tuple[Pixels, float]:
    height, width = image.shape[:2]
    scale = max(1.0, min_side / min(height, width))
    scale = min(scale, max_side / max(height, width))
    if scale == 1.0:
        return image.copy(), scale
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=how), np.uint8), scale


def _kept(objects: Prediction | Truth, threshold: float) -> list[int]:
    """Indices to draw, best score first, points as they were marked; crowds are left out."""
    if isinstance(objects, Prediction) and objects.points is not None:
        return (objects.scores >= threshold).nonzero().flatten().tolist()
    if isinstance(objects, Prediction):
        order = objects.scores.argsort(descending=True, stable=True)
        return [i for i in order.tolist() if objects.scores[i] >= threshold]
    return (~objects.iscrowd).nonzero().flatten().tolist()


def _paint_mask(canvas: Pixels, mask: Pixels, ink: Colour) -> None:
    """Translucent fill and an opaque contour, in place."""
    height, width = canvas.shape[:2]
    if mask.shape != (height, width):
        # linear and cut at one half: an enlarged outline stays round instead of showing stairs
        enlarged = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        mask = (enlarged >= 0.5).astype(np.uint8)
    line = max(1, round(min(height, width) / 220))
    x, y, w, h = cv2.boundingRect(mask)
    # Only around the object: a canvas may hold hundreds of them.
    part = np.s_[max(0, y - line - 1) : y + h + line + 1, max(0, x - line - 1) : x + w + line + 1]
    region, mask = canvas[part], np.ascontiguousarray(mask[part])
    tints = (np.arange(256)[:, None] * (1 - _FILL) + np.array(ink) * _FILL).astype(np.uint8)
    cv2.copyTo(cv2.LUT(np.ascontiguousarray(region), tints[None]), mask, region)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(region, contours, -1, ink, line, cv2.LINE_AA)


def _outline_boxes(pen: ImageDraw.ImageDraw, boxes: Sequence[Sequence[float]]) -> None:
    for order, box in enumerate(boxes):
        pen.rectangle(_ordered(box), outline=colour(order), width=2)


def _ordered(box: Sequence[float]) -> tuple[float, float, float, float]:
    """PIL refuses boxes whose corners are swapped; an untrained model may predict them."""
    return min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])


def _wordings(label: int, names: Sequence[str], score: float | None) -> list[str]:
    """What a label may say, longest first; where there is one category only, its name says nothing."""
    name = names[label] if len(names) > 1 and 0 <= label < len(names) else ""
    mark = "" if score is None else f"{score:.2f}"
    return [text for text in dict.fromkeys((f"{name} {mark}".strip(), mark)) if text]


def _write_labels(
    pen: ImageDraw.ImageDraw,
    boxes: Sequence[Sequence[float]],
    words: Sequence[Sequence[str]],
    size: tuple[int, int],
) -> None:
    """Labels beside their boxes, best first; in their short form, or left out, where they would collide."""
    font = _font(12)
    taken: list[Place] = []
    for order, (box, wordings) in enumerate(zip(boxes, words, strict=True)):
        for wording in wordings:
            left, top, right, bottom = pen.textbbox((0, 0), wording, font=font)
            place = _free_place(box, right - left + 4, bottom - top + 4, taken, size)
            if place is not None:
                taken.append(place)
                pen.rectangle(place, fill=colour(order))
                pen.text(
                    (place[0] + 2 - left, place[1] + 2 - top), wording, font=font, fill=_ink_on(colour(order))
                )
                break


def _free_place(
    box: Sequence[float], wide: float, high: float, taken: Sequence[Place], size: tuple[int, int]
) -> Place | None:
    """Where a label of this size fits beside ``box`` without touching a label in ``taken``."""
    for x, y in ((box[0], box[1] - high), (box[2] - wide, box[1] - high), (box[0], box[3])):
        x, y = min(max(0.0, x), size[0] - wide), min(max(0.0, y), size[1] - high)
        place = (x, y, x + wide, y + high)
        if not any(x < t[2] and t[0] < place[2] and y < t[3] and t[1] < place[3] for t in taken):
            return place
    return None


def _ink_on(paper: Colour) -> Colour:
    luminance = 0.299 * paper[0] + 0.587 * paper[1] + 0.114 * paper[2]
    return (0, 0, 0) if luminance > 110 else (255, 255, 255)


def _number_points(pen: ImageDraw.ImageDraw, points: npt.NDArray[np.floating]) -> None:
    """Discs that bear the order in which the points were given, from 1."""
    font = _font(12)
    for order, (x, y) in enumerate(points.tolist()):
        paper = colour(order)
        radius = 8 if order < 9 else 10
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=paper, outline=(0, 0, 0))
        pen.text((x, y), str(order + 1), font=font, fill=_ink_on(paper), anchor="mm")


def _ring(pen: ImageDraw.ImageDraw, centre: Sequence[float], ink: Colour) -> None:
    """A circle around a small dot, edged in black."""
    x, y = centre
    pen.ellipse((x - 11, y - 11, x + 11, y + 11), outline=(0, 0, 0), width=4)
    pen.ellipse((x - 10, y - 10, x + 10, y + 10), outline=ink, width=2)
    pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=ink)


def _shadowed(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, ink: Colour, size: tuple[int, int]
) -> None:
    """Text that is legible on anything, its top left corner at ``place`` or as near as fits into ``size``."""
    font = _font()
    _, _, right, bottom = pen.textbbox((0, 0), text, font=font, stroke_width=2)
    x, y = min(max(2.0, place[0]), size[0] - right - 2), min(max(2.0, place[1]), size[1] - bottom - 2)
    pen.text((x, y), text, font=font, fill=ink, stroke_width=2, stroke_fill=(0, 0, 0))


def _class_colour(label: int, names: Sequence[str]) -> Colour | None:
    """None for what stays untinted: ignored pixels and a background class."""
    if label == IGNORE or (label < len(names) and names[label].lower() in _BACKGROUND_NAMES):
        return None
    return colour(label)


def _tint_classes(canvas: Pixels, classes: npt.NDArray[np.int64], names: Sequence[str]) -> Pixels:
    height, width = canvas.shape[:2]
    resized = cv2.resize(classes.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    tinted = canvas.astype(np.float32)
    for label in np.unique(resized).tolist():
        ink = _class_colour(label, names)
        if ink is not None:
            where = resized == label
            tinted[where] = tinted[where] * 0.5 + np.array(ink, np.float32) * 0.5
    tinted[resized == IGNORE] *= 0.4
    return tinted.astype(np.uint8)


def _with_legend(canvas: Pixels, classes: npt.NDArray[np.int64], names: Sequence[str]) -> Pixels:
    """A strip below the picture: a swatch and the name of every class in it."""
    font, x, row = _font(12), 6, 0
    entries: list[tuple[int, int, Colour, str]] = []
    for label in np.unique(classes).tolist():
        ink = _class_colour(label, names)
        if ink is None:
            continue
        text = names[label] if label < len(names) else str(label)
        wide = 18 + round(font.getlength(text)) + 12
        if x + wide > canvas.shape[1] and x > 6:
            x, row = 6, row + 1
        entries.append((x, row, ink, text))
        x += wide
    if not entries:
        return canvas
    strip = Image.new("RGB", (canvas.shape[1], 20 * (row + 1)), _PAPER)
    pen = ImageDraw.Draw(strip)
    for left, line, ink, text in entries:
        pen.rectangle((left, 20 * line + 4, left + 12, 20 * line + 16), fill=ink, outline=(0, 0, 0))
        pen.text((left + 18, 20 * line + 10), text, font=font, fill=_BAR, anchor="lm")
    return np.vstack([canvas, np.asarray(strip)])


def _bar(text: str, width: int) -> Pixels:
    return _text_strip(text, width, ink=(255, 255, 255), paper=(70, 74, 82))


def _text_strip(text: str, width: int, *, ink: Colour, paper: Colour) -> Pixels:
    """Text wrapped to ``width`` on a plain strip."""
    font = _font()
    lines = [part for line in text.splitlines() for part in _wrapped(line, width - 12)]
    strip = Image.new("RGB", (width, 6 + 19 * len(lines)), paper)
    pen = ImageDraw.Draw(strip)
    for row, line in enumerate(lines):
        pen.text((6, 3 + 19 * row + 9), line, font=font, fill=ink, anchor="lm")
    return np.asarray(strip)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of whole words, each at most ``width`` pixels long where its words allow that."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _font().getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _pad_below(picture: Pixels, height: int) -> Pixels:
    missing = np.full((height - picture.shape[0], picture.shape[1], 3), _PAPER, np.uint8)
    return np.vstack([picture, missing])
