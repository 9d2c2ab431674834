from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def story():
    """What a process met that read from a hub on loopback; see hub_story.py."""
    done = subprocess.run([sys.executable, str(HERE / "hub_story.py")], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def rows_of(shard):
    return [{"prompt": f"{shard}-{n}?", "chosen": "yes " * 400, "rejected": "no"} for n in range(60)]


BOTH = [*rows_of(0), *rows_of(1)]


def contents(scene):
    return [row for _, row in scene["rows"]]


def test_shards_are_read_in_order_with_the_name_of_each(story):
    assert contents(story["whole"]) == BOTH
    ids = [row_id for row_id, _ in story["whole"]["rows"]]
    assert ids[0] == "own/shards/train-00000-of-00002.parquet:1"
    assert ids[-1] == "own/shards/train-00001-of-00002.parquet:60"
    assert story["licence"] == "cc-by-4.0"


def test_only_what_is_read_is_fetched_and_nothing_twice(story):
    assert contents(story["limited"]) == BOTH[:3]
    assert story["limited"]["contents"] == 2  # the card and the first shard
    assert story["whole"]["contents"] == 1  # the second shard
    assert (story["again"]["contents"], contents(story["again"])) == (0, BOTH)


def test_lines_are_read_by_our_reader_which_tells_a_bad_line_from_a_bad_file(story):
    rows = dict(story["lines"]["rows"])
    assert len(rows) == 121
    assert rows["own/lines/part-1.jsonl:60"] == BOTH[-1]
    assert "own/lines/part-0.jsonl:61" in rows
    assert isinstance(rows["own/lines/part-0.jsonl:61"], str)  # what is wrong with it


def test_other_splits_and_slices_of_splits(story):
    assert contents(story["other split"]) == rows_of(9)[:5]
    assert contents(story["slice"]) == BOTH[58:61]
    assert "Unknown split" in story["no such split"]["rows"]


def test_a_data_set_that_says_how_its_files_are_read_is_read_so(story):
    assert contents(story["piped"]) == [{"prompt": "q", "chosen": "a", "rejected": "b"}]


def test_what_is_not_there_is_one_line(story):
    said = story["no such set"]["rows"]
    assert said.startswith("DataError: own/nothing: no such file here, and the hub gives no data set: 404")
    assert "\n" not in said
    assert len(said) < 300


def test_a_server_that_fails_is_asked_again_and_then_told_of_in_one_line(story):
    assert contents(story["two failures"]) == BOTH
    assert story["two failures"]["waits"] == [1, 2]
    said = story["only failures"]["rows"]
    assert said.startswith(
        "DataError: own/shards: the hub does not give data/train-00001-of-00002.parquet: Server error"
    )
    assert said.endswith("; run it again, whole files stay")
    assert "\n" not in said
    assert len(said) < 320
    assert story["only failures"]["waits"] == [1, 2, 4]


def test_a_connection_that_breaks_in_the_middle_of_a_file_is_taken_up_again(story):
    assert contents(story["cut twice"]) == BOTH
    assert story["cut twice"]["contents"] == 3


def test_a_file_that_something_cut_on_disk_is_fetched_once_more(story):
    assert contents(story["cut on disk"]) == BOTH
    assert story["cut on disk"]["contents"] == 1


def test_without_a_network_what_was_fetched_is_enough(story):
    assert (story["offline"]["contents"], contents(story["offline"])) == (0, BOTH)
    assert story["down"]["rows"].endswith("; set HF_HUB_OFFLINE=1 to use what was fetched before")


def test_without_a_network_part_of_a_set_is_not_taken_for_the_set(story):
    said = story["offline, one lost"]["rows"]
    assert said == (
        "DataError: own/shards: the hub cannot be reached, and data/train-00001-of-00002.parquet is not among the files "
        "that were fetched before"
    )
    assert story["offline, unknown"]["rows"].endswith("the hub cannot be reached, nor is it in the hub's cache")


def test_nothing_half_is_left(story):
    assert story["half files"] == []


READ = """
import sys
from exptilt.data.read.sources import read_rows
from exptilt.errors import ExptiltError
try:
    print(sum(1 for _ in read_rows("own/shards")), flush=True)
except ExptiltError as error:
    print(error)
"""


def test_a_process_killed_in_the_middle_of_a_shard_leaves_no_shard(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    from hub_server import Hub, serving
    from hub_story import SECOND, fill

    fill(tmp_path)
    hub = Hub(tmp_path)
    hub.stall[SECOND] = threading.Event()
    with serving(hub) as address:
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
        environment |= {"EXPTILT_CACHE": str(tmp_path / "ours"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, "-c", READ]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as killed:
            while not (hub.asked["GET", SECOND] and list(tmp_path.rglob("*.incomplete"))):
                assert killed.poll() is None
                time.sleep(0.05)
            killed.kill()
        hub.stall.pop(SECOND).set()
        before = subprocess.run(command, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
        after = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert f"{SECOND} is not among the files that were fetched before" in before.stdout
    assert after.stdout == "120\n"
    assert hub.asked["GET", "data/train-00000-of-00002.parquet"] == 1
