"""A process that reads data sets of a hub on loopback through its good and bad days, and prints what it saw as JSON.

The hub's client takes its address and its folders from the environment when it is imported, so each test of it needs a
process of its own; all scenes are played in this one, each with an empty memory of what was listed before.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import pyarrow
import pyarrow.parquet
from hub_server import Hub, serving

CARD = "---\nlicense: {}\n---\n"
SECOND = "data/train-00001-of-00002.parquet"


def rows_of(shard: int) -> list[dict[str, str]]:
    return [{"prompt": f"{shard}-{n}?", "chosen": "yes " * 400, "rejected": "no"} for n in range(60)]


def fill(root: Path) -> None:
    shards = root / "own" / "shards" / "data"
    lines = root / "own" / "lines"
    for folder in (shards, lines):
        folder.mkdir(parents=True)
    for shard in range(2):
        name = f"train-0000{shard}-of-00002.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows_of(shard)), shards / name, compression="none")
        text = "".join(json.dumps(row) + "\n" for row in rows_of(shard))
        (lines / f"part-{shard}.jsonl").write_text(text if shard else text + "{not JSON\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows_of(9)[:5]), shards / "test-00000-of-00001.parquet")
    (shards.parent / "README.md").write_text(CARD.format("cc-by-4.0"))
    piped = root / "own" / "piped"
    piped.mkdir()
    (piped / "a.csv").write_text("prompt|chosen|rejected\nq|a|b\n")
    (piped / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  sep: '|'\n  data_files:\n  - split: train\n    path: a.csv\n---\n"
    )


def play(root: Path, hub: Hub, address: str) -> dict[str, object]:
    os.environ |= {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(root / "home")}
    os.environ |= {"EXPTILT_CACHE": str(root / "ours"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    from huggingface_hub import constants

    from exptilt.data.read import hub as reach
    from exptilt.data.read import hub_files, sources
    from exptilt.errors import ExptiltError

    waits: list[float] = []
    hub_files.time.sleep = waits.append  # the client's too
    said: dict[str, object] = {}

    def scene(name: str, source: str = "own/shards", **asked: object) -> None:
        hub_files.files_on_hub.cache_clear()
        hub.asked.clear()
        waits.clear()
        try:
            rows = list(sources.read_rows(source, **asked))
            told: object = [(row_id, row if isinstance(row, dict) else str(row)) for row_id, row in rows]
        except ExptiltError as error:
            told = f"{type(error).__name__}: {error}"
        said[name] = {"rows": told, "contents": hub.contents_asked(), "waits": list(waits)}

    def forget() -> None:
        for path in (root / "home").rglob(Path(SECOND).name):
            path.resolve().unlink()
            path.unlink()

    scene("limited", limit=3)
    scene("whole")
    said["licence"] = hub_files.files_on_hub("own/shards", "train", None, None).licence
    scene("again")
    scene("lines", "own/lines")
    scene("other split", split="test")
    scene("no such split", split="dev")
    scene("slice", split="train[58:61]")
    scene("piped", "own/piped")
    scene("no such set", "own/nothing")
    forget()
    hub.status[SECOND] = [500, 503]
    scene("two failures")
    forget()
    hub.status[SECOND] = [500] * 9
    scene("only failures")
    hub.status.clear()
    hub.cut[SECOND] = [1000, 5000]
    scene("cut twice")
    for path in (root / "home").rglob(Path(SECOND).name):
        with path.resolve().open("rb+") as file:
            file.truncate(1000)
    scene("cut on disk")
    hub.refuse_all = 503
    scene("down")
    hub.refuse_all = 0
    reach.is_reachable.cache_clear()
    constants.HF_HUB_OFFLINE = True
    scene("offline")
    forget()
    scene("offline, one lost")
    scene("offline, unknown", "own/unknown")
    said["half files"] = [str(path) for path in root.rglob("*.incomplete")]
    return said


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder))
        hub = Hub(Path(folder))
        with serving(hub) as address:
            story = play(Path(folder), hub, address)
        print(json.dumps(story))
