"""Templates: placeholders, the sandbox, the digest."""

import pytest

from exptilt.errors import ConfigError
from exptilt.judges.judge_templates import judge_template


@pytest.mark.parametrize("name", ["summary", "concise-summary", "dialogue", "better"])
def test_every_template_shows_everything_once_and_says_a_label_is_the_verdict(name):
    text = judge_template(name).pair("the prompt", "answer one", "answer two", ("K", "M"), tie=True)
    assert [text.count(part) for part in ("the prompt", "answer one", "answer two")] == [1, 1, 1]
    assert text.index("answer one") < text.index("answer two")
    assert '"verdict": "K or M"' in text
    assert "tie if neither" in text
    assert "tie" not in judge_template(name).pair("p", "a", "b", ("K", "M"), tie=False)


def test_an_answer_is_never_read_as_a_template():
    text = judge_template("better").pair("{{ 7 * 7 }}", "{% raw %}", "{{ first }}", ("K", "M"), tie=False)
    assert "{{ 7 * 7 }}" in text
    assert "49" not in text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ prompt }} {{ first }} {{ label_first }} {{ label_second }}", "never shows {{ second }}"),
        ("{{ prompt }} {{ anser }}", "unknown placeholder {{ anser }}"),
        ("{{ prompt", "line 1"),
        ("{{ answer }}", "never shows {{ prompt }}"),
    ],
)
def test_a_template_without_a_placeholder_is_refused(tmp_path, source, message):
    (tmp_path / "own.j2").write_text(source)
    with pytest.raises(ConfigError) as error:
        judge_template(str(tmp_path / "own.j2"))
    assert message in str(error.value)


def test_a_users_template_reaches_nothing_outside(tmp_path):
    source = "{{ prompt }}{{ first }}{{ second }}{{ label_first }}{{ label_second }}{{ prompt.__class__.__mro__ }}"
    (tmp_path / "own.j2").write_text(source)
    with pytest.raises(ConfigError, match="cannot be filled in"):
        judge_template(str(tmp_path / "own.j2")).pair("p", "a", "b", ("K", "M"), tie=False)


def test_text_and_question_are_in_the_digest_and_an_unknown_name_is_refused():
    digests = {
        judge_template("better").digest,
        judge_template("better", "Kinder?").digest,
        judge_template("dialogue").digest,
    }
    assert len(digests) == 3
    with pytest.raises(ConfigError, match="no template is called 'beter'"):
        judge_template("beter")
