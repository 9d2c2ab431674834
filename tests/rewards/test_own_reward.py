"""Rewards of one's own: by import path, with settings, in a process that may take too long, print, raise or end."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import pytest

from exptilt.cli import main
from exptilt.errors import ConfigError, DataError
from exptilt.preferences import Answer
from exptilt.rewards.length_reward import Length
from exptilt.rewards.reward_from_choice import build_reward
from exptilt.rewards.scored_answers import rewards_of
from exptilt.sampling.sample_rows import SampleRow, prompt_id
from exptilt.settings.declaration import config
from exptilt.settings.load import dump, load
from exptilt.settings.pair_settings import PairRequest
from exptilt.settings.reward_settings import AnyReward

SOURCE = """
import math, os, signal, time
from dataclasses import dataclass

def words(answers):
    print("counting words")
    return [len(answer.text.split()) for answer in answers]

def whole_rollout(answers):
    longest = max(len(answer.text) for answer in answers)
    return [len(answer.text) / longest for answer in answers]

def unsure(answers):
    return [math.nan if "?" in answer.text else 1.0 * len(answer.text) for answer in answers]

def alarm_works(answers):
    def ring(*_): raise TimeoutError
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        time.sleep(5)
    except TimeoutError:
        return [1.0] * len(answers)

def sees(answers):
    one = answers[0]
    return [one.ids[1] + 10 * len(one.prompt) + 100 * (one.columns["answer"] == "4")]

def constant(answers): return [2.0] * len(answers)
def raises(answers): raise RuntimeError("no GPU left")
def wrong_shape(answers): return [[1.0, 2.0]] * len(answers)
def words_of_numbers(answers): return ["many"] * len(answers)
def infinite(answers): return [math.inf] * len(answers)
def sleeps(answers): time.sleep(600)
def dies(answers): os._exit(3)

@dataclass(frozen=True)
class Scaled:
    factor: float = 1.0
    scale = "letters"
    def __call__(self, answers):
        return [self.factor * len(answer.text) for answer in answers]

class NeedsMore:
    def __init__(self):
        raise OSError("weights are missing")
    def __call__(self, answers): ...

not_callable = 7
"""


@pytest.fixture
def mine(tmp_path, monkeypatch) -> str:
    """The name of a module in the current folder."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


def answers(*texts: str) -> list[Answer]:
    return [Answer(prompt="Q", text=text) for text in texts]


@config
class Holder:
    """A recipe with a reward."""

    reward: AnyReward


def built(mine: str, function: str, **settings):
    written = {"import": f"{mine}:{function}", **settings}
    return build_reward(load(Holder, None, [f"reward={json.dumps(written)}"]).reward)


@pytest.mark.parametrize(
    ("function", "settings", "expected"),
    [
        ("words", {}, [1, 2]),
        ("whole_rollout", {}, [1 / 3, 1]),
        ("unsure", {}, [1, np.nan]),
        ("alarm_works", {}, [1, 1]),
        ("Scaled", {"factor": 0.5}, [0.5, 1.5]),
    ],
)
def test_a_reward_is_called_with_a_whole_rollout(mine, capfd, function, settings, expected):
    reward = built(mine, function, **settings)
    np.testing.assert_allclose(rewards_of(reward, answers("a", "b ?")), expected)
    np.testing.assert_allclose(rewards_of(reward, answers("a", "b ?")), expected)
    reward.close()
    assert capfd.readouterr().err.count("counting words") == (2 if function == "words" else 0)


def test_an_answer_arrives_whole(mine):
    reward = built(mine, "sees")
    one = Answer(prompt="Question", text="4", ids=np.array([5, 7], np.int32), columns={"answer": "4"})
    assert reward([one]).tolist() == [7 + 80 + 100]
    assert reward(
        [Answer(prompt=({"role": "user", "content": "Q"},), text="", ids=one.ids, columns={"answer": 5})]
    ) == [17]


def test_settings_are_kept_and_tell_two_rewards_apart(mine, tmp_path):
    recipe = load(Holder, None, [f"reward={{import: '{mine}:Scaled', factor: 2, timeout: 30}}"])
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    again = load(Holder, tmp_path / "recipe.yaml")
    assert again == recipe
    assert again.reward.timeout == 30
    one, other = build_reward(recipe.reward), built(mine, "Scaled", factor=3)
    assert (one.name, one.scale) == ("Scaled", "letters")
    assert one.identity != other.identity
    assert '"factor": 2.0' in one.identity
    one.close()


def test_parts_of_sums_and_steps_may_be_your_own(mine):
    part = f"{{import: '{mine}:words'}}"
    written = f"{{kind: sum, parts: [{{weight: -2, reward: {part}}}, {{reward: {{kind: steps, rule: last, reward: {part}}}}}]}}"
    reward = build_reward(load(Holder, None, [f"reward={written}"]).reward)
    assert reward(answers("a b\nc")).tolist() == [-2 * 3 + 3]
    reward.close()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("raises", r"reward raises: raised RuntimeError: no GPU left \(mine_\w+\.py:\d+\)"),
        ("wrong_shape", r"reward wrong_shape: gave an array of shape \(2, 2\) for 2 answers"),
        ("words_of_numbers", r"reward words_of_numbers: raised ValueError: could not convert string to float"),
        ("infinite", r"reward infinite: gave inf for answer 1 of 2"),
        ("dies", r"reward dies: gave no numbers for 2 answers within 600 s, or its process ended"),
    ],
)
def test_what_goes_wrong_in_it_is_one_line(mine, function, said):
    reward = built(mine, function)
    with pytest.raises(DataError, match=said):
        rewards_of(reward, answers("a", "b"))
    reward.close()


def test_it_is_ended_when_it_takes_too_long(mine):
    reward = built(mine, "sleeps", timeout=0.5)
    reward._started()
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"within 0\.5 s.*set reward\.timeout"):
        reward(answers("a"))
    assert time.monotonic() - begun < 60
    reward.close()


def test_one_that_cannot_be_made_says_why(mine):
    with pytest.raises(ConfigError, match="reward NeedsMore: raised OSError: weights are missing"):
        built(mine, "NeedsMore")(answers("a"))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{import: 'MINE:nobody'}", "has no 'nobody'"),
        ("{import: 'MINE:not_callable'}", "is no reward; it cannot be called with answers"),
        ("{import: 'MINE:words', factor: 2}", "is no class, so it takes no settings; got factor"),
        ("{import: 'MINE:Scaled', factr: 2}", "unknown key; did you mean 'factor'?"),
        ("{import: 'MINE:words', timeout: 0}", "timeout must be > 0 and finite, got 0"),
        ("{import: 'nobody_has_this:f'}", "no module named 'nobody_has_this'"),
        ("{import: words}", "must be `package.module:Name`"),
    ],
)
def test_a_mistake_in_the_recipe_is_one_line(mine, written, said):
    with pytest.raises(ConfigError) as refusal:
        load(Holder, None, [f"reward={written.replace('MINE', mine)}"])
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def samples(path) -> str:
    texts = ["a", "b ?", "ccc", "ddddd"]
    rows = [
        SampleRow(prompt_id=prompt_id("Q"), prompt="Q", sample_index=at, completion=text, ended=True)
        for at, text in enumerate(texts)
    ]
    path.write_text("".join(row.line() for row in rows))
    return str(path)


def command(monkeypatch, capsys, *words: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["exptilt", "pair", *words])
    with pytest.raises(SystemExit) as leaving:
        main()
    caught = capsys.readouterr()
    return leaving.value.code or 0, caught.err + caught.out


def test_unscored_answers_are_counted_and_in_no_pair(mine, tmp_path, monkeypatch, capsys):
    words = [samples(tmp_path / "s.jsonl"), f"reward.import={mine}:unsure", "pairs=all"]
    code, said = command(monkeypatch, capsys, *words, "--output", str(tmp_path / "rows.jsonl"))
    assert code == 0
    assert "left out: 1 with no score (completions)" in said
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {row[side] for row in rows for side in ("chosen", "rejected")} == {"a", "ccc", "ddddd"}


@pytest.mark.parametrize("function", ["constant", "raises", "wrong_shape", "dies"])
def test_a_bad_reward_leaves_the_samples_and_writes_nothing(mine, tmp_path, monkeypatch, capsys, function):
    path = samples(tmp_path / "s.jsonl")
    before = (tmp_path / "s.jsonl").read_bytes()
    output = tmp_path / "rows.jsonl"
    code, said = command(monkeypatch, capsys, path, f"reward.import={mine}:{function}", "--output", str(output))
    assert code
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if line.startswith("exptilt")]) == 1
    assert (tmp_path / "s.jsonl").read_bytes() == before
    assert not output.exists()


def test_python_code_may_give_the_object(tmp_path):
    request = PairRequest(samples=(samples(tmp_path / "s.jsonl"),), output="rows.jsonl", reward=Length("words"))
    assert build_reward(request.reward) == Length("words")
    written = load(Holder, None, ["reward={kind: length}"])
    assert load(Holder, None, [f"reward={{import: {Length.__module__}:Length, unit: words}}"]) != written
