from __future__ import annotations

import pytest

from exptilt.errors import ConfigError
from exptilt.settings.declaration import config
from exptilt.settings.load import dump, load
from exptilt.settings.reward_settings import AnyReward, LengthConfig, SumConfig, VerifierConfig


@config
class Holder:
    """A recipe with a reward."""

    reward: AnyReward


def test_a_reward_is_chosen_by_its_kind():
    read = load(Holder, None, ["reward={kind: verifier, check: gsm8k}", "reward.column=truth"])
    assert read.reward == VerifierConfig(check="gsm8k", column="truth")


def test_parts_of_a_sum_are_rewards_and_survive_a_file(tmp_path):
    read = load(Holder, None, ["reward={kind: sum, parts: [{weight: -0.5, reward: {kind: length}}], high: 1}"])
    assert isinstance(read.reward, SumConfig)
    assert read.reward.parts[0].weight == -0.5
    assert read.reward.parts[0].reward == LengthConfig()
    (tmp_path / "recipe.yaml").write_text(dump(read))
    assert load(Holder, tmp_path / "recipe.yaml") == read


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{kind: verifyer}", "reward.kind: unknown kind 'verifyer'; did you mean 'verifier'?"),
        ("{check: gsm8k}", "reward.kind: missing; it says which kind this is"),
        ("{kind: length, unit: pages}", "reward.unit: must be 'characters' or 'words', got 'pages'"),
        ("{kind: verifier, check: regex}", "pattern is missing: check=regex looks for it"),
        ("{kind: verifier, check: regex, pattern: '('}", "pattern is no regular expression"),
        ("{kind: verifier, check: exact, colum: a}", "reward.colum: unknown key; did you mean 'column'?"),
        ("{kind: verifier, check: exact, timeout: 0}", "timeout must be > 0"),
        ("{kind: sum, parts: []}", "parts must hold at least one reward"),
    ],
)
def test_a_mistake_is_one_line(written, message):
    with pytest.raises(ConfigError) as refusal:
        load(Holder, None, [f"reward={written}"])
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
