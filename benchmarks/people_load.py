"""The page for people under load and under SIGKILL.

    python benchmarks/people_load.py speed --items 20000 --presses 300      # one rater: from a vote to the next comparison
    python benchmarks/people_load.py crowd --items 2000 --raters 32 --votes 40
    python benchmarks/people_load.py kills --items 4000 --raters 8 --kills 50

`speed` and `crowd` say how long a vote takes until the next page is there, over HTTP on loopback (p50, p95, worst), and how many
requests failed. `kills` sends every vote twice, kills the page at random moments and starts it again; afterwards every acknowledged
vote is in the store exactly once, and SQLite finds its file whole. Exit status 1 where that is not so.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import numpy as np


class Page:
    """`exptilt label` in a process of its own."""

    def __init__(self, folder: Path, raters: int, port: int = 0) -> None:
        names = [f"rater{n}" for n in range(raters)]
        command = [sys.executable, "-m", "exptilt", "label", "pairs.jsonl", "--no-browser", "--port", str(port)]
        self._start = time.perf_counter()
        self.process = subprocess.Popen(
            [*command, "--wanted", "2", *(part for name in names for part in ("--people", name))],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"EXPTILT_CACHE": str(folder / "cache")},
        )
        self.tokens: dict[str, str] = {}
        for line in self.process.stdout:
            if match := re.fullmatch(r"  (.+): (http://\S+)\n", line):
                self.address = urlsplit(match.group(2))
                self.tokens[match.group(1)] = match.group(2).split("token=")[1]
            if line.startswith("Ctrl-C"):
                break
        self.seconds_to_start = time.perf_counter() - self._start

    def end(self, how: int = signal.SIGINT) -> None:
        self.process.send_signal(how)
        self.process.wait()
        self.process.stdout.close()


class Rater:
    """One person's browser: a connection that is kept, a cookie, the nonce of the page."""

    def __init__(self, page: Page, name: str) -> None:
        self._page, self.name = page, name
        self._connection = http.client.HTTPConnection(page.address.hostname, page.address.port, timeout=120)
        cookie = f"exptilt-{page.address.port}={page.tokens[name]}"
        self._headers = {"Cookie": cookie, "Sec-Fetch-Site": "same-origin"}

    def ask(self, path: str, form: dict[str, str] | None = None, follow: bool = True) -> tuple[int, str]:
        headers = self._headers | ({"Content-Type": "application/x-www-form-urlencoded"} if form else {})
        self._connection.request("POST" if form else "GET", path, urlencode(form) if form else None, headers)
        reply = self._connection.getresponse()
        text = reply.read().decode()
        if reply.status == 303 and follow:
            return self.ask(reply.headers["location"])
        return reply.status, text


def nonce_of(text: str) -> str | None:
    match = re.search(r'name="nonce" value="([^"]+)"', text)
    return match.group(1) if match else None


def write_items(folder: Path, count: int) -> None:
    words = [f"word{number}" for number in range(40)]
    rng = random.Random(0)
    with (folder / "pairs.jsonl").open("w") as file:
        for number in range(count):
            said = [" ".join(rng.choices(words, k=120)) for _ in range(2)]
            row = {"prompt": f"Question {number}?", "chosen": f"{said[0]} {number}", "rejected": f"{said[1]} {number}"}
            file.write(json.dumps(row) + "\n")


def vote_through(rater: Rater, votes: int, seconds: list[float], faults: Counter[str]) -> None:
    status, text = rater.ask("/")
    for _ in range(votes):
        nonce = nonce_of(text)
        if status != 200 or nonce is None:
            faults[f"status {status}"] += status != 200
            return
        began = time.perf_counter()
        status, text = rater.ask("/vote", {"nonce": nonce, "outcome": random.choice(["first", "second", "tie"])})
        seconds.append(time.perf_counter() - began)


def report(what: str, seconds: list[float], faults: Counter[str], page: Page) -> None:
    times = np.array(seconds) * 1000
    print(
        f"{what}: {len(times)} votes, p50 {np.quantile(times, 0.5):.0f} ms, p95 {np.quantile(times, 0.95):.0f} ms, "
        f"worst {times.max():.0f} ms; {sum(faults.values())} faults; the page started in {page.seconds_to_start:.2f} s"
    )


def speed(folder: Path, arguments: argparse.Namespace) -> bool:
    write_items(folder, arguments.items)
    page = Page(folder, 1)
    seconds: list[float] = []
    faults: Counter[str] = Counter()
    vote_through(Rater(page, "rater0"), arguments.presses, seconds, faults)
    page.end()
    report(f"one rater, {arguments.items} comparisons", seconds, faults, page)
    return not faults


def crowd(folder: Path, arguments: argparse.Namespace) -> bool:
    write_items(folder, arguments.items)
    page = Page(folder, arguments.raters)
    seconds: list[float] = []
    faults: Counter[str] = Counter()
    threads = [
        threading.Thread(target=vote_through, args=(Rater(page, f"rater{n}"), arguments.votes, seconds, faults))
        for n in range(arguments.raters)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    page.end()
    report(f"{arguments.raters} raters at once, {arguments.items} comparisons", seconds, faults, page)
    return not faults and exactly_once(folder, None)


def vote_twice(rater: Rater, stop: threading.Event, acknowledged: list[str]) -> None:
    """Send every vote twice until the page is killed, and keep the nonces of votes that were acknowledged."""
    try:
        while not stop.is_set():
            nonce = nonce_of(rater.ask("/")[1])
            if nonce is None:
                return
            for _ in range(2):
                if rater.ask("/vote", {"nonce": nonce, "outcome": "first"}, follow=False)[0] == 303:
                    acknowledged.append(nonce)
    except (OSError, http.client.HTTPException):
        return


def kills(folder: Path, arguments: argparse.Namespace) -> bool:
    write_items(folder, arguments.items)
    acknowledged: list[str] = []
    rng = random.Random(1)
    for number in range(arguments.kills + 1):
        page = Page(folder, arguments.raters)
        stop = threading.Event()
        raters = [Rater(page, f"rater{n}") for n in range(arguments.raters)]
        threads = [threading.Thread(target=vote_twice, args=(rater, stop, acknowledged)) for rater in raters]
        for thread in threads:
            thread.start()
        time.sleep(rng.uniform(0.05, arguments.longest))
        if number < arguments.kills:
            page.end(signal.SIGKILL)
        stop.set()
        for thread in threads:
            thread.join()
        if number == arguments.kills:
            page.end()
    print(f"{arguments.kills} SIGKILLs under {arguments.raters} raters: {len(set(acknowledged))} votes acknowledged")
    return exactly_once(folder, set(acknowledged))


def exactly_once(folder: Path, acknowledged: set[str] | None) -> bool:
    store = sqlite3.connect(folder / "votes.db")
    whole = store.execute("PRAGMA integrity_check").fetchone()[0]
    stored = [row[0] for row in store.execute("SELECT nonce FROM vote")]
    twice = store.execute(
        "SELECT count(*) FROM (SELECT 1 FROM vote GROUP BY comparison, question, rater, replicate HAVING count(*) > 1)"
    ).fetchone()[0]
    over = store.execute(
        "SELECT count(*) FROM (SELECT 1 FROM vote WHERE replicate = 0 GROUP BY comparison HAVING count(*) > 2)"
    ).fetchone()[0]
    store.close()
    lost = len((acknowledged or set()) - set(stored))
    print(
        f"{len(stored)} votes stored, {lost} lost, {twice} stored twice, {over} beyond what was wanted; SQLite: {whole}"
    )
    return (lost, twice, over, whole) == (0, 0, 0, "ok")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "crowd", "kills"))
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--presses", type=int, default=300)
    parser.add_argument("--raters", type=int, default=32)
    parser.add_argument("--votes", type=int, default=40)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--longest", type=float, default=2.0, help="seconds between a start and its kill")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = {"speed": speed, "crowd": crowd, "kills": kills}[arguments.what]
        return 0 if run(Path(folder), arguments) else 1


if __name__ == "__main__":
    sys.exit(main())
