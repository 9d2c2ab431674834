"""Items, a desk with a clock of its own, and a real server on loopback, in a process without torch."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest
import uvicorn

from exptilt.cli import app
from exptilt.people.desk import Desk
from exptilt.people.items import Item
from exptilt.preferences import Comparison
from exptilt.settings.label_settings import LabelRules
from exptilt.votes.vote_store import VoteStore

BROWSERS = (os.environ.get("CHROMIUM", ""), "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
AXE = "axe-core@4.14.1"


def make_items(count: int, answers: int = 2) -> list[Item]:
    return [
        Item(
            comparison=Comparison(f"Question {n}?", tuple(f"{'zyxwvut'[k]} answer {n}" for k in range(answers))),
            sources=("chosen", "rejected") if answers == 2 else (),
        )
        for n in range(count)
    ]


@pytest.fixture
def items() -> Callable[..., list[Item]]:
    """`items(count, answers=2)`; the first answer sorts behind the second."""
    return make_items


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_desk(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Desk]]:
    """`make_desk(items, wanted=1, repeats=0.0, ...)`, on the store votes.db of the test's folder."""
    stores = []

    def make(items: list[Item], **rules) -> Desk:
        stores.append(VoteStore(tmp_path / "votes.db"))
        return Desk(stores[-1], items, LabelRules(**({"repeats": 0.0} | rules)), clock)

    yield make
    for store in stores:
        store.close()


@dataclass
class Page:
    """A running page, as a person's browser meets it."""

    stop: Callable[[], str]
    """Ends it, and gives what it printed afterwards."""
    links: dict[str, str]
    printed: list[str]
    process: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        return next(iter(self.links.values())).split("/?")[0]

    def cookie(self, name: str) -> str:
        port = urllib.parse.urlsplit(self.address).port
        return f"exptilt-{port}={self.links[name].split('token=')[1]}"

    def ask(self, path: str, name: str | None = None, form: dict | None = None, **headers: str) -> tuple[int, str]:
        """Status and text; redirects are followed, as a browser does."""
        status, _, text = self.answer(path, name, form, **headers)
        return status, text

    def answer(self, path: str, name: str | None = None, form: dict | None = None, **headers: str):
        sent = {"Sec-Fetch-Site": "same-origin"} | {key.replace("_", "-"): value for key, value in headers.items()}
        if name is not None:
            sent["Cookie"] = self.cookie(name)
        data = None if form is None else urllib.parse.urlencode(form).encode()
        request = urllib.request.Request(self.address + path, data, {k: v for k, v in sent.items() if v})
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.status, dict(reply.headers), reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read().decode()

    def nonce(self, name: str) -> str:
        return nonce_in(self.ask("/", name)[1])

    def vote(self, name: str, outcome: str = "first", **fields: str) -> tuple[int, str]:
        return self.ask("/vote", name, {"nonce": self.nonce(name), "outcome": outcome} | fields)


def nonce_in(page: str) -> str:
    return re.search(r'name="nonce" value="([^"]+)"', page).group(1)


def links_in(lines: list[str]) -> dict[str, str]:
    return dict(match.groups() for line in lines if (match := re.fullmatch(r"  (.+): (http://\S+)", line)))


def run_in_thread(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Page:
    """The whole command in a thread of this process, which starts in no time."""
    output, failures, servers = io.StringIO(), [], []

    class Stoppable(uvicorn.Server):
        def __init__(self, config):
            super().__init__(config)
            servers.append(self)

    def run() -> None:
        try:
            app(arguments, standalone_mode=False)
        except BaseException as error:  # the test says so
            failures.append(error)

    monkeypatch.setattr("exptilt.people.page_server.uvicorn.Server", Stoppable)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", output)
        thread = Thread(target=run, daemon=True)
        thread.start()
        while "Ctrl-C" not in output.getvalue() and thread.is_alive():
            time.sleep(0.01)
    printed = output.getvalue().splitlines()
    assert not failures, (printed, failures)

    def stop() -> str:
        while not servers:
            time.sleep(0.01)
        servers[0].should_exit = True
        thread.join(timeout=30)
        return output.getvalue()

    return Page(stop, links_in(printed), printed)


def run_in_process(arguments: list[str], folder: Path) -> Page:
    """The command as people start it; for what ends by a signal."""
    process = subprocess.Popen(
        [sys.executable, "-m", "exptilt", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    printed = []
    for line in process.stdout:
        printed.append(line.rstrip("\n"))
        if line.startswith("Ctrl-C"):
            break
    else:
        pytest.fail(f"the page did not open: {printed} {process.communicate(timeout=30)[1]}")

    def stop() -> str:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        return "".join(process.communicate(timeout=30))

    return Page(stop, links_in(printed), printed, process)


@pytest.fixture
def open_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Page]]:
    """`open_page("pairs.jsonl", "--people", "anna", process=False)`: runs `exptilt label` in the test's folder."""
    pages: list[Page] = []
    monkeypatch.chdir(tmp_path)

    def make(*arguments: str, process: bool = False) -> Page:
        whole = ["label", *arguments, "--no-browser", *([] if "--port" in arguments else ["--port", "0"])]
        pages.append(run_in_process(whole, tmp_path) if process else run_in_thread(whole, monkeypatch))
        return pages[-1]

    yield make
    for page in pages:
        if page.process is None:
            page.stop()
        else:
            page.process.kill()
            page.process.communicate(timeout=30)


@pytest.fixture
def pairs_file(tmp_path: Path) -> Callable[..., Path]:
    """`pairs_file(count=3)`: pairs.jsonl with chosen and rejected answers."""

    def make(count: int = 3, name: str = "pairs.jsonl") -> Path:
        rows = [
            {"prompt": f"Question {n}?", "chosen": f"good answer {n}", "rejected": f"bad answer {n}"}
            for n in range(count)
        ]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def browser():
    """A real Chromium without a head; skipped aloud where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install 'exptilt[dev]'"
    )
    path = next((path for path in BROWSERS if path and Path(path).exists()), None)
    if path is None:
        pytest.skip("no Chromium: install Debian's chromium, or name one in CHROMIUM")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """axe-core, which npm has and we do not; skipped aloud without it."""
    if os.environ.get("AXE_CORE"):
        return Path(os.environ["AXE_CORE"]).read_text()
    kept = Path(tempfile.gettempdir()) / f"exptilt-{AXE}.js"
    if not kept.exists():
        if shutil.which("npm") is None:
            pytest.skip("no npm to fetch axe-core with; name its axe.min.js in AXE_CORE")
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(["npm", "pack", AXE], cwd=folder, capture_output=True, text=True, timeout=120)
            if done.returncode:
                pytest.skip("npm cannot fetch axe-core here; name its axe.min.js in AXE_CORE")
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
                kept.write_bytes(archive.extractfile("package/axe.min.js").read())
    return kept.read_text()


@pytest.fixture
def violations(axe: str) -> Callable[..., list]:
    """`violations(tab)`: what axe-core finds wrong with a tab, whose context has `bypass_csp=True`."""

    def find(tab) -> list:
        tab.evaluate(axe)
        return tab.evaluate("async () => (await axe.run()).violations.map(v => [v.id, v.nodes.map(n => n.html)])")

    return find
