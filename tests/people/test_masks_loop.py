"""Masks in a real browser: candidates, the page, rows, training; and a person gets what they prefer."""

from __future__ import annotations

import io
import json
import sys
import urllib.request

import numpy as np
import pytest
from PIL import Image

from exptilt.cli import main
from exptilt.data.masks.image_files import read_mask, write_mask
from exptilt.testbed.blobs import blobs, thickened

_COUNTED = """image => {
  const canvas = Object.assign(document.createElement('canvas'), {width: image.naturalWidth, height: image.naturalHeight});
  canvas.getContext('2d').drawImage(image, 0, 0);
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  return data.filter((value, at) => at % 4 === 3 && value > 0).length;
}"""
"""Pixels of a picture that are not clear."""


@pytest.fixture
def command(monkeypatch, tmp_path):
    """A command of exptilt in the test's folder, which must succeed."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["exptilt", *words])
        with pytest.raises(SystemExit) as leaving:
            main()
        assert not leaving.value.code

    return call


def prefers_larger_masks(browser, page) -> int:
    """A person who compares everything there is by keyboard, and looks at the outline of the difference; the number of votes."""
    tab = browser.new_page()
    tab.goto(next(iter(page.links.values())))
    tab.wait_for_selector("#vote")
    votes = 0
    while tab.locator("#vote").count():
        tab.wait_for_load_state()
        assert tab.locator("h1").inner_text() == "Which mask is better?"
        sides = [tab.locator("section.answer .overlay img:nth-child(2)").nth(at).evaluate(_COUNTED) for at in (0, 1)]
        outline = tab.locator(".differing .overlay img:nth-child(2)").evaluate(_COUNTED)
        assert outline > 0
        assert outline >= min(1, abs(sides[0] - sides[1]))
        with tab.expect_navigation():
            tab.keyboard.press("1" if sides[0] > sides[1] else "3" if sides[1] > sides[0] else "2")
        votes += 1
    tab.close()
    return votes


@pytest.mark.slow
def test_what_a_person_prefers_is_what_the_segmenter_becomes(browser, open_page, command, tmp_path):
    images, masks = blobs(16, 24, 3)
    (tmp_path / "images").mkdir()
    rows = []
    for at in range(16):
        Image.fromarray(images[at]).save(tmp_path / "images" / f"{at}.png")
        write_mask(tmp_path / f"{at}-true.png", masks[at])
        rows.append({"image": f"images/{at}.png", "mask": f"{at}-true.png", "target": f"{at}-true.png"})
    (tmp_path / "true.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    unet = "segmenter={config: {channels: 1, width: 4, levels: 2}}"
    (tmp_path / "r.yaml").write_text("data: {train: true.jsonl}\noutput: start\nbatch: {size: 8}\n")
    stated = [unet, "optim.learning_rate=0.01", "train.epochs=20", "loss={name: sft, normalization: sequence}"]
    command("train", "r.yaml", *stated)
    command("masks", "start", "images=images", "--output", "candidates")

    page = open_page("candidates/items.jsonl", "--store", "candidates/votes.db", "--repeats", "0")
    assert prefers_larger_masks(browser, page) == 32
    page.stop()
    command("pair", "candidates/votes.db", "--output", "candidates/pairs.jsonl")
    made = [json.loads(line) for line in (tmp_path / "candidates" / "pairs.jsonl").read_text().splitlines()]
    sizes = [
        [int((read_mask(tmp_path / "candidates" / row[side]) > 0).sum()) for side in ("chosen", "rejected")]
        for row in made
    ]
    assert all(chosen > rejected for (chosen, rejected), row in zip(sizes, made, strict=True) if row["p_chosen"] == 1)
    assert sum(row["p_chosen"] == 1 for row in made) >= 28
    (tmp_path / "p.yaml").write_text(
        "segmenter: {path: start}\ndata: {train: candidates/pairs.jsonl, test: true.jsonl}\n"
    )
    more = ["output=larger", "data.max_difference=1", "train.epochs=10", "optim.learning_rate=2e-3"]
    command("train", "p.yaml", *more)
    found = json.loads((tmp_path / "larger" / "mask_evaluation.json").read_text())
    assert found["policy"]["foreground"]["low"] > found["reference"]["foreground"]["value"]


def test_the_outline_is_of_the_pixels_that_differ_and_of_no_others(open_page, tmp_path):
    image, mask = np.zeros((12, 12), np.uint8), np.zeros((12, 12), np.int32)
    mask[4:8, 4:8] = 1
    other = thickened(mask[None], 2)[0]
    other[0, 11] = 2  # a class of its own has a colour of its own
    Image.fromarray(image).save(tmp_path / "image.png")
    for name, one in (("a", mask), ("b", other)):
        write_mask(tmp_path / f"{name}.png", one)
    (tmp_path / "items.jsonl").write_text(json.dumps({"image": "image.png", "masks": ["a.png", "b.png"]}) + "\n")
    page = open_page("items.jsonl")
    (name,) = page.links
    text = page.ask("/", name)[1]
    assert "Which mask is better?" in text
    path = next(part.split('"')[0] for part in text.split('src="') if part.startswith("/differing/"))

    def picture(of: str):
        asked = urllib.request.Request(page.address + of, headers={"Cookie": page.cookie(name)})
        with urllib.request.urlopen(asked) as reply:
            return np.asarray(Image.open(io.BytesIO(reply.read())).convert("RGBA"))

    drawn = picture(path)[..., 3] > 0
    differs = mask != other
    assert (drawn & ~differs).sum() == 0
    assert drawn[0, 11]
    ring = differs.copy()
    ring[0, 11] = ring[3, 3] = ring[3, 8] = ring[8, 3] = ring[8, 8] = False
    assert np.array_equal(
        drawn[2:10, 2:10], ring[2:10, 2:10]
    )  # two pixels wide: all but the corners touch what is outside
    second = picture(path.replace("/differing/", "/image/") + "/2")
    assert tuple(second[0, 11]) == (0, 114, 178, 120)
    assert tuple(second[4, 4]) == (255, 64, 0, 120)
    assert page.ask("/differing/" + "0" * 64, name)[0] == 404
    assert page.ask(path)[0] == 401
