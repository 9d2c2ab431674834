"""The reward that one word names: of a YAML file, or of your own."""

from __future__ import annotations

import pytest

from exptilt.errors import ConfigError
from exptilt.preferences import Answer
from exptilt.rewards.reward_by_name import reward_by_name


def test_a_file_and_an_import_path_name_the_same_reward(tmp_path):
    (tmp_path / "reward.yaml").write_text("reward: {import: 'exptilt.rewards.length_reward:Length'}\n")
    answers = [Answer(prompt="Q", text="four"), Answer(prompt="Q", text="")]
    rewards = [
        reward_by_name(which) for which in (str(tmp_path / "reward.yaml"), "exptilt.rewards.length_reward:Length")
    ]
    assert [reward(answers).tolist() for reward in rewards] == [[4.0, 0.0]] * 2
    assert rewards[0].identity == rewards[1].identity
    for reward in rewards:
        reward.reward.close()


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("nobody_has_this:f", "import nobody_has_this:f: no module named 'nobody_has_this'"),
        ("exptilt.wording:TYPO", "import exptilt.wording:TYPO: is no reward"),
        ("exptilt.wording", "import must be `package.module:Name`"),
    ],
)
def test_what_names_no_reward_is_one_line(which, said):
    with pytest.raises(ConfigError) as refusal:
        reward_by_name(which)
    assert said in str(refusal.value)
