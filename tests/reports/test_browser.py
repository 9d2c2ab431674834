"""The page in a real browser: no console message and, under a policy that forbids every request, no refusal either."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from exptilt.reports.doctor_page import write_doctor_page
from exptilt.reports.page import write_report
from exptilt.run_folder.data_record import DataReport, Example, SplitReport

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--virtual-time-budget=2000",
]

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium found: set CHROMIUM or install it to run this test"
)


def load(page: Path, profile: Path, width: int) -> tuple[str, list[str]]:
    """The document after loading, and what the console said."""
    command = [
        str(CHROMIUM),
        *QUIET,
        f"--user-data-dir={profile}",
        f"--window-size={width},900",
        "--dump-dom",
        page.as_uri(),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]


def test_the_page_loads_without_a_message_or_a_request(
    frontier_folder: Path, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    document, messages = load(write_report([frontier_folder, make_run()]), tmp_path / "profile", 390)
    assert "How to reproduce" in document
    assert messages == []


def test_a_request_would_have_been_seen(make_run: Callable[..., Path], tmp_path: Path) -> None:
    page = write_report([make_run()])
    page.write_text(page.read_text().replace("<main>", '<main><img src="file:///nowhere.png">'))
    _, messages = load(page, tmp_path / "profile", 1200)
    assert any("Content Security Policy" in line for line in messages)


def test_the_page_of_hostile_data_asks_for_nothing_either(tmp_path: Path) -> None:
    attack = "</p><img src=http://evil.test/x><script>alert(1)</script>"
    split = SplitReport(source=attack, format="hh", rows=1, rows_left_out={}, examples=1, examples_left_out={}, kept=1)
    example = Example(id=attack, prompt=attack, completions=(((attack, True),),))
    report = DataReport(kind="completion", train=split, test=None, findings=(), examples=(example,))
    document, messages = load(write_doctor_page(report, tmp_path / "page.html"), tmp_path / "profile", 390)
    assert "A run would take these data." in document
    assert messages == []
