"""Bars: on a terminal or in a notebook, nowhere else, and never where they are silenced."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from exptilt.progress import in_notebook, is_watched, no_bars, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch, stream) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(3, doing="score", unit="row", delay=0) as bar:
        bar.update(3)
    return stream.getvalue()


def test_a_bar_is_on_a_terminal_alone(monkeypatch):
    assert "score: 100%" in shown(monkeypatch, Terminal())
    assert shown(monkeypatch, io.StringIO()) == ""
    with no_bars():
        assert shown(monkeypatch, Terminal()) == ""
        assert not is_watched()
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert is_watched()


@pytest.mark.parametrize(("config", "expected"), [({"IPKernelApp": {}}, True), ({}, False)])
def test_a_notebook_is_told_by_its_kernel(monkeypatch, config, expected):
    shell = SimpleNamespace(config=config)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert in_notebook() is expected


def test_a_notebook_without_widgets_gets_text(monkeypatch, capsys):
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr("exptilt.progress.find_spec", lambda name: None)
    with progress_bar(2, doing="train", unit="step", delay=0) as bar:
        bar.update(2)
    assert "train: 100%" in capsys.readouterr().out
