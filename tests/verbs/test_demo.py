"""The demo in small: the same parts, the same promises about its table."""

from __future__ import annotations

from itertools import pairwise

import pytest

from exptilt.errors import ConfigError
from exptilt.verbs import demo as demo_file
from exptilt.verbs.demo import METHODS, DemoSize, demo

SMALL = DemoSize(
    num_reviews=800,
    sft_epochs=2.0,
    samples_per_prompt=8,
    epochs=1.0,
    pool=16,
    policy_samples=8,
    num_prompts=80,
    width=48,
    num_layers=1,
)
KEPT = ("preferred-ft", "dpo-beta-0.1")


@pytest.fixture(scope="module")
def frontiers(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("EXPTILT_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setattr(demo_file, "METHODS", {name: METHODS[name] for name in KEPT})
    folders = [tmp_path_factory.mktemp("demo") for _ in range(2)]
    yield folders, [demo(folder, seed=3, size=SMALL) for folder in folders]
    patch.undo()


def test_two_runs_with_one_seed_give_the_same_table(frontiers):
    _, (first, second) = frontiers
    assert first == second


def test_dpo_beats_its_reference_and_nothing_lies_above_the_optimum(frontiers):
    _, (content, _) = frontiers
    points = {point["name"]: point for point in content["points"]}
    assert points["DPO beta=0.1"]["gain"]["low"] > 0
    assert points["DPO beta=0.1"]["kl"]["value"] > points["Preferred-FT"]["kl"]["value"] > 0
    for point in points.values():
        assert point["above_optimum"] is None or point["above_optimum"]["low"] <= 0
        low, high = point["kl_check"]["low"], point["kl_check"]["high"]
        assert low - 0.2 <= point["kl"]["value"] <= high + 0.2


def test_the_optimum_rises_from_the_reference_with_falling_slope(frontiers):
    _, (content, _) = frontiers
    optimum = content["optimum"]
    slopes = [
        (after - before) / (right - left)
        for (left, before), (right, after) in pairwise(zip(optimum["kl"], optimum["reward"], strict=True))
        if right - left > 1e-3
    ]
    assert all(slope >= -1e-9 for slope in slopes)
    assert all(later <= earlier + 1e-6 for earlier, later in pairwise(slopes))
    assert max(optimum["kl"]) <= 0.9 * content["log_m"] + 1e-9


def test_the_page_stands_alone(frontiers):
    folders, _ = frontiers
    page = (folders[0] / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert 'src="http' not in page
    assert "DPO beta=0.1" in page


def test_more_seeds_add_runs_and_leave_the_first_seeds_folders_as_they_are(tmp_path):
    alone, several = (demo_file._Demo(tmp_path, 3, SMALL, seeds)._runs() for seeds in (1, 2))
    assert [run.folder for run in alone] == list(demo_file.METHODS)
    assert [run.folder for run in several if run.seed == 3] == list(demo_file.METHODS)
    assert [(run.title, run.objective) for run in several][:2] == [
        ("Preferred-FT seed=3", "Preferred-FT"),
        ("Preferred-FT seed=4", "Preferred-FT"),
    ]
    with pytest.raises(ConfigError, match="seeds: must be >= 1, got 0"):
        demo(tmp_path / "none", 0, SMALL, seeds=0)
