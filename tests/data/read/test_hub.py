from __future__ import annotations

import time

import datasets
import pytest
from huggingface_hub import constants

from exptilt.data.read import hub
from exptilt.data.read.sources import read_rows
from exptilt.errors import DataError


class Session:
    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def head(self, url, timeout):
        self.asked.append((url, timeout))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def session(monkeypatch):
    """What answers for the hub; the process's mode is as before afterwards."""
    made = Session(object())
    monkeypatch.setattr("huggingface_hub.get_session", lambda: made)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    hub.is_reachable.cache_clear()
    yield made
    hub.is_reachable.cache_clear()


def test_any_answer_will_do_and_one_is_enough(session):
    assert hub.is_reachable()
    assert hub.is_reachable()
    assert session.asked == [(constants.ENDPOINT, 5.0)]
    assert not constants.HF_HUB_OFFLINE


def test_no_answer_puts_the_client_into_its_offline_mode(session):
    session.answer = RuntimeError("no route")
    assert not hub.is_reachable()
    assert constants.HF_HUB_OFFLINE
    assert datasets.config.HF_HUB_OFFLINE


def test_who_asked_for_offline_mode_is_not_asked_again(session, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub.is_reachable()
    assert session.asked == []


def test_a_hub_id_without_a_hub_is_refused_without_a_retry(session, monkeypatch):
    session.answer = OSError("no network")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waited {seconds} s"))
    with pytest.raises(DataError, match="nobody/nothing: no such file here, and the hub cannot be reached, nor is it"):
        next(read_rows("nobody/nothing"))
