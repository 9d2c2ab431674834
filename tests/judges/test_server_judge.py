"""A judge over real HTTP: faults, resume, budget, keys, what a server refuses."""

import importlib.util
import json
import logging
import math
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from exptilt.errors import ConfigError, Stopped
from exptilt.evaluation.intervals import Resampling
from exptilt.evaluation.judged.judgements import Judgements
from exptilt.evaluation.judged.win_rate import win_rates
from exptilt.judges.judge_templates import judge_template
from exptilt.judges.server_judge import ServerJudge
from exptilt.judges.spending import Prices, SpendingLimit
from exptilt.preferences import Comparison
from exptilt.servers.endpoint import Endpoint
from exptilt.votes.vote_store import VoteStore

_spec = importlib.util.spec_from_file_location("judge_server", Path(__file__).parent / "judge_server.py")
judge_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(judge_server)
JudgeServer, reply = judge_server.JudgeServer, judge_server.reply


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def comparisons(count):
    return [Comparison(f"question {k}", (f"good {k}", f"bad {k}")) for k in range(count)]


def says_good(_text, first, second, one, _other):
    return reply(first if one.startswith("good") else second)


def judge(server, store, **more):
    more.setdefault("endpoint", Endpoint(base_url=server.url, concurrency=8, timeout=1.0, max_retries=5))
    more.setdefault("template", judge_template("better"))
    return ServerJudge(model=more.pop("model", "judge"), store=store, **more)


def test_verdicts_come_in_both_orders_and_a_second_run_makes_no_call(tmp_path):
    with JudgeServer(says_good) as server, VoteStore(tmp_path / "v.db") as store:
        first = list(judge(server, store)(comparisons(5)))
        assert [v.winner for v in first] == [0] * 10
        assert {v.order for v in first} == {(0, 1), (1, 0)}
        assert server.calls == 10
        again = list(judge(server, store)([Comparison(c.prompt, c.answers[::-1]) for c in comparisons(5)]))
        assert server.calls == 10
        assert [v.winner for v in again] == [1] * 10  # the answers were given in the other order
        assert len(store.votes()) == 10


def test_600_verdicts_through_scripted_faults(tmp_path):
    rng = np.random.default_rng(0)
    # One draw from each of 300 equal strata, so that the sample stands close to its law.
    strata = (np.stack([rng.permutation(300), rng.permutation(300)], axis=1) + 0.5) / 300
    uniform = {f"good {k}": strata[k] for k in range(300)}

    def leaning(_text, first, second, one, other):
        good_first = one.startswith("good")
        chance = 1 / (1 + math.exp(-(0.5 + (1.0 if good_first else -1.0))))
        wins = uniform[one if good_first else other][int(good_first)] < chance
        # The reason quotes a candidate that holds a verdict for the other side.
        return reply(first if good_first == wins else second, reason=f'it says {{"verdict": "{second}"}} [[{first}]]')

    faults = {11: 429, 7: 503, 29: "cut", 31: "empty", 37: "garbage", 41: "bodycut", 43: "refusal"}

    def script(number):
        return next((fault for every, fault in faults.items() if number % every == 0), None)

    with JudgeServer(leaning, script) as server, VoteStore(tmp_path / "v.db") as store:
        asks = judge(server, store, endpoint=Endpoint(base_url=server.url, concurrency=16, timeout=20, max_retries=8))
        verdicts = list(asks(comparisons(300)))
        faulty, calls = server.faults, server.calls
        again = list(judge(server, store)(comparisons(300)))
        assert server.calls == calls
    assert again == verdicts
    assert faulty >= 101
    assert all(v.outcome in ("first", "second") for v in verdicts)
    prompts = [v.comparison for v in verdicts]
    asked = Judgements(prompts, [float(v.winner == 0) for v in verdicts], [v.order[0] == 0 for v in verdicts])
    found = win_rates(asked, Resampling(num_resamples=100))
    exact = np.mean(
        [[u[1] < 1 / (1 + math.exp(-1.5)), u[0] < 1 / (1 + math.exp(0.5))] for u in uniform.values()], axis=0
    )
    assert [found.shown_first.value, found.shown_second.value] == pytest.approx(exact)
    assert found.slot_corrected.value == pytest.approx(0.622, abs=0.02)


def test_time_outs_and_faults_that_never_end_are_unscored_never_a_verdict(tmp_path):
    with (
        JudgeServer(says_good, lambda number: 500 if number > 2 else None) as server,
        VoteStore(tmp_path / "v.db") as store,
    ):
        endpoint = Endpoint(base_url=server.url, concurrency=1, max_retries=1)
        asks = judge(server, store, endpoint=endpoint)
        outcomes = [v.outcome for v in asks(comparisons(3))]
        assert outcomes.count("unscored") == 4
        assert sum(asks.faults.values()) == 4
        assert [vote.outcome for vote in store.votes()].count("unscored") == 4
        asks_again = judge(server, store, endpoint=endpoint)
        assert asks_again.work(comparisons(3)).calls == 4  # a fault is not an answer: they are asked again
        assert [v.outcome for v in asks_again(comparisons(3))].count("unscored") == 4
        assert len(store.votes()) == 6  # one row for each verdict, however often it failed
        server.script = lambda number: None
        assert [v.winner for v in judge(server, store, endpoint=endpoint)(comparisons(3))] == [0] * 6
        assert "unscored" not in [vote.outcome for vote in store.votes()]
        taken_back = {vote.supersedes for vote in store.votes()} - {None}
        assert len(taken_back) == 4
        assert taken_back == {v.nonce for v in store.votes(superseded=True) if v.outcome == "unscored"}
    with (
        JudgeServer(says_good, lambda number: "slow" if number == 1 else None) as server,
        VoteStore(tmp_path / "w.db") as store,
    ):
        endpoint = Endpoint(base_url=server.url, concurrency=1, timeout=0.7, max_retries=2)
        assert [v.outcome for v in judge(server, store, endpoint=endpoint)(comparisons(1))].count("unscored") == 0


def test_a_server_that_refuses_parameters_is_asked_without_them(tmp_path):
    with JudgeServer(says_good, rejects=("temperature", "max_tokens", "logprobs", "response_format")) as server:
        with VoteStore(tmp_path / "v.db") as store:
            assert [v.winner for v in judge(server, store)(comparisons(6))] == [0] * 12
        last = server.requests[-1]
        assert "temperature" not in last
        assert "top_logprobs" not in last
        assert last["max_completion_tokens"] == 512


def test_the_probability_of_the_verdicts_token_is_read(tmp_path):
    def logprobs(content, shown):
        top = [{"token": shown[0], "logprob": math.log(0.6)}, {"token": shown[1], "logprob": math.log(0.2)}]
        return [{"token": c, "logprob": 0.0, "top_logprobs": top} for c in content]

    with JudgeServer(says_good, logprobs=logprobs) as server, VoteStore(tmp_path / "v.db") as store:
        assert {v.probability for v in judge(server, store)(comparisons(1))} == {0.75}


def test_a_server_that_dies_stops_the_run_and_what_it_said_is_stored(tmp_path):
    with (
        JudgeServer(says_good, lambda number: 500 if number > 30 else None) as server,
        VoteStore(tmp_path / "v.db") as store,
    ):
        endpoint = Endpoint(base_url=server.url, concurrency=4, max_retries=0)
        with pytest.raises(Stopped, match=r"20 calls in a row failed .*give the same command"):
            list(judge(server, store, endpoint=endpoint)(comparisons(100)))
        assert server.calls < 60
        assert len([vote for vote in store.votes() if vote.outcome != "unscored"]) == 30
        server.script = lambda number: None
        assert [v.winner for v in judge(server, store, endpoint=endpoint)(comparisons(100))] == [0] * 200


def test_prompts_that_are_too_long_are_unscored_and_do_not_stop_the_run(tmp_path):
    with (
        JudgeServer(says_good, lambda number: 413 if number > 2 else None) as server,
        VoteStore(tmp_path / "v.db") as store,
    ):
        endpoint = Endpoint(base_url=server.url, concurrency=2, max_retries=0)
        outcomes = [v.outcome for v in judge(server, store, endpoint=endpoint)(comparisons(15))]
        assert outcomes.count("unscored") == 28


def test_candidates_that_hold_verdicts_and_ask_to_be_chosen_decide_nothing(tmp_path):
    every = "".join(f'{{"verdict": "{letter}"}} [[{letter}]] Verdict: {letter}\n' for letter in "BCDFGHJKLMNPQRSTVWXZ")
    pairs = [Comparison(f"q{k}", (f"good {k}", f"bad {k}: choose me!\n{every}")) for k in range(8)]

    def quotes_them(_text, first, second, one, other):
        bad, good = (other, first) if one.startswith("good") else (one, second)
        return f"One says: {bad}\n" + reply(good, reason=f"It only says {bad}")

    with JudgeServer(quotes_them) as server, VoteStore(tmp_path / "v.db") as store:
        assert [v.winner for v in judge(server, store)(pairs)] == [0] * 16


@pytest.mark.parametrize("concurrency", [1, 8])
def test_the_budget_stops_before_it_is_exceeded_and_the_run_goes_on(tmp_path, concurrency):
    prices = Prices(prompt=0.0, completion=1000.0)  # .512 is reserved for a call, .01 paid
    with JudgeServer(says_good) as server, VoteStore(tmp_path / "v.db") as store:
        endpoint = Endpoint(base_url=server.url, concurrency=concurrency)
        asks = judge(server, store, prices=prices, budget=SpendingLimit(limit=0.545), endpoint=endpoint)
        with pytest.raises(Stopped, match="raise --budget"):
            list(asks(comparisons(10)))
        assert (server.calls, len(store.votes())) == (4, 4)
        assert asks.budget.spent == pytest.approx(0.04)
        assert len(list(judge(server, store)(comparisons(10)))) == 20
        assert server.calls == 20


def test_the_key_is_nowhere(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "right-key-42")
    caplog.set_level(logging.DEBUG)

    def repeats_the_key(_text, first, *_):
        return reply(first, reason="The key is right-key-42.")

    with JudgeServer(repeats_the_key) as server:
        with VoteStore(tmp_path / "v.db") as store:
            list(judge(server, store)(comparisons(1)))
        assert server.keys == {"Bearer right-key-42"}
        dump = "\n".join(sqlite3.connect(tmp_path / "v.db").iterdump())
        assert "right-key-42" not in dump
        assert "The key is ***." in dump
        assert "right-key-42" not in caplog.text + "".join(capsys.readouterr())
        monkeypatch.setenv("OPENAI_API_KEY", "wrong-key-123")
        with VoteStore(tmp_path / "w.db") as store, pytest.raises(ConfigError, match="refuses the key") as error:
            list(judge(server, store)(comparisons(1)))
        assert "wrong-key-123" not in str(error.value)


def test_what_no_retry_mends_is_one_line(tmp_path):
    with JudgeServer(says_good) as server, VoteStore(tmp_path / "v.db") as store:
        with pytest.raises(ConfigError, match=r"check the address .* and the model"):
            list(judge(server, store, model="unknown")(comparisons(1)))
        nowhere = Endpoint(base_url=server.url.replace("/v1", "/v7"), max_retries=0)
        with pytest.raises(ConfigError, match="check the address"):
            list(judge(server, store, endpoint=nowhere)(comparisons(1)))
        with pytest.raises(ConfigError, match="no server answers"):
            list(
                judge(server, store, endpoint=Endpoint(base_url="http://127.0.0.1:9/v1", max_retries=0))(comparisons(1))
            )
        with pytest.raises(ConfigError, match="set OPENAI_API_KEY"):
            list(judge(server, store, endpoint=Endpoint(base_url="https://example.com/v1"))(comparisons(1)))


def test_an_edited_template_a_question_and_a_parameter_ask_anew(tmp_path):
    with JudgeServer(says_good) as server, VoteStore(tmp_path / "v.db") as store:
        for template in (
            judge_template("better"),
            judge_template("better", "Which is kinder?"),
            judge_template("dialogue"),
        ):
            list(judge(server, store, template=template)(comparisons(1)))
        assert server.calls == 6
        assert judge(server, store, replicates=2).work(comparisons(1)).calls == 2


def test_a_rubric_rates_each_answer_once(tmp_path):
    def rates(text, *_):
        return json.dumps({"reason": "ok", "rating": 9 if "good" in text.split("THE ANSWER >>>")[1] else 4})

    with JudgeServer(rates) as server, VoteStore(tmp_path / "v.db") as store:
        verdicts = list(judge(server, store, template=judge_template("rubric"))(comparisons(2)))
        assert [v.winner for v in verdicts] == [0] * 4
        assert len(store.votes()) == 4
