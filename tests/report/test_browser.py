"""The page in a real browser, at desktop and phone widths; skipped where no Chromium is installed."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwell.report import page
from tests.report.run_folder import incident, write_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")

LOOK = """
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => {
  const page = frame.contentDocument, seen = {};
  seen.width = page.documentElement.scrollWidth;
  const plot = page.querySelector(".charts .plot"), box = plot.getBoundingClientRect();
  const at = { clientX: box.left + box.width / 2, clientY: box.top + 9 };
  plot.dispatchEvent(new frame.contentWindow.PointerEvent("pointermove", at));
  seen.tip = plot.querySelector(".tip").textContent;
  seen.marks = [...page.querySelectorAll(".mark")].map((mark) => {
    const m = mark.getBoundingClientRect(), b = mark.parentElement.getBoundingClientRect();
    return m.left >= b.left - 12 && m.right <= b.right + 12;
  });
  document.querySelector("output").textContent = JSON.stringify(seen);
});
"""


def _wrapped(folder: Path, width: int) -> Path:
    """A page that shows the report in a frame of a phone's width and says what it sees there.

    Headless windows have a least width; a frame has none.
    """
    inner = html.escape(page.write(folder).read_text(), quote=True)
    frame = f'<iframe style="border:0;width:{width}px;height:1600px" srcdoc="{inner}"></iframe>'
    path = folder / f"wrapped_{width}.html"
    path.write_text(
        f'<body style="margin:0"><output hidden></output>{frame}<script>{LOOK}</script></body>',
        encoding="utf-8",
    )
    return path


def _browse(*arguments: str) -> str:
    assert BROWSER is not None
    return subprocess.run([BROWSER, *FLAGS, *arguments], capture_output=True, text=True, timeout=300).stdout


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_window_and_answers_the_pointer(tmp_path: Path, width: int) -> None:
    figures = {f"a_rather_long_name_of_a_figure_{i}": 0.5 for i in range(4)} | {"map": 0.4, "ap/red": 0.3}
    overrides = ("data.root=/a/very/long/path/" + "deeper/" * 30, "optim.lr=1e-3")
    found = (incident(120, "the gradient norm explodes", subject="grad_norm"), incident(290, "x_" * 90))
    folder = write_run(tmp_path / "run", trained=figures, incidents=found, overrides=overrides)
    wrapped = _wrapped(folder, width)

    dom = _browse("--virtual-time-budget=5000", "--dump-dom", f"file://{wrapped}")
    said = re.search(r"<output[^>]*>(.*?)</output>", dom, re.DOTALL)
    assert said is not None and said[1], "the page did not load"
    seen = json.loads(html.unescape(said[1]))
    assert seen["width"] == width  # nothing makes the page itself scroll sideways
    assert re.match(r"iteration 1[45]\d.*training, each step", seen["tip"])
    assert seen["marks"] and all(seen["marks"])

    picture = tmp_path / "page.png"
    _browse(f"--screenshot={picture}", f"--window-size={max(500, width)},1600", f"file://{wrapped}")
    pixels = np.asarray(Image.open(picture).convert("RGB"))[:, :width]
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100  # drawn, and not blank
