"""The page on this machine: its answers, and the page itself in a browser where both are installed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwell import demo
from maskwell.api import Model
from maskwell.errors import UserError
from trained import Oracle, spots

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def _model() -> Model:
    """Finds every bright disc, exactly; takes words."""
    task = Oracle()
    task.promptable = True
    return Model(task, ("disc",))


def test_an_answer_counts_draws_and_exports() -> None:
    image = spots((64, 64))
    found = demo.answer(_model(), image, "disc, car")
    assert found.counts == [("disc", "9"), ("car", "0")]
    assert found.overlay.shape[0] == found.overlay.shape[1] > 64 and found.overlay.dtype == np.uint8
    assert len(found.coco["annotations"]) == 9 and found.coco["categories"][1] == {"id": 2, "name": "car"}
    assert len(found.coco["annotations"][0]["segmentation"][0]) >= 8


def test_the_threshold_leaves_out_what_is_less_sure() -> None:
    assert demo.answer(_model(), spots((64, 64)), "", 0.9).counts == [("disc", "0")]


def test_words_that_a_model_cannot_know_are_a_sentence() -> None:
    with pytest.raises(UserError, match="takes no words"):
        demo.answer(Model(Oracle(), ("disc",)), spots((64, 64)), "car")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    playwright = pytest.importorskip("playwright.sync_api")
    Image.fromarray(spots((64, 64))).save(tmp_path / "spots.png")
    blocks = demo.page(_model(), "discs")
    _, address, _ = blocks.launch(
        server_name=demo.ADDRESS, server_port=None, prevent_thread_lock=True, quiet=True
    )
    try:
        assert address.startswith(f"http://{demo.ADDRESS}:")
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
            tab = browser.new_page(viewport={"width": 1280, "height": 1000})
            asked: list[str] = []
            tab.on("request", lambda request: asked.append(request.url))
            tab.goto(address, timeout=120_000)
            tab.locator("input[type=file]").first.set_input_files(str(tmp_path / "spots.png"))
            tab.locator("img").first.wait_for(timeout=60_000)
            tab.get_by_role("button", name="Find").click()
            file = tab.locator("a[download*='annotations']")
            file.wait_for(timeout=60_000)
            with tab.expect_download(timeout=60_000) as download:
                file.click()
            assert len(json.loads(Path(download.value.path()).read_text())["annotations"]) == 9
            tab.screenshot(path=str(tmp_path / "demo.png"))
            browser.close()
        assert {url.split("/")[2].split(":")[0] for url in asked if url.startswith("http")} == {demo.ADDRESS}
    finally:
        blocks.close()
    assert (
        len(np.unique(np.asarray(Image.open(tmp_path / "demo.png").convert("RGB")).reshape(-1, 3), axis=0))
        > 200
    )
