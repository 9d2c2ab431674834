"""`exptilt judge` on files, a real server, and the published benchmarks."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from exptilt.cli import main
from exptilt.errors import CheckpointError, ConfigError, DataError, DiskError
from exptilt.evaluation.intervals import Resampling
from exptilt.evaluation.judged.matches import ask_each_once
from exptilt.judges.named_judges import JudgeOptions
from exptilt.judges.spending import Prices
from exptilt.preferences import Comparison
from exptilt.servers.endpoint import Endpoint
from exptilt.verbs.agree import agree
from exptilt.verbs.judge import Asking, judge, judge_benchmark
from exptilt.votes.vote_records import Rater, Vote
from exptilt.votes.vote_store import VoteStore

_spec = importlib.util.spec_from_file_location("judge_server", Path(__file__).parents[1] / "judges" / "judge_server.py")
judge_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(judge_server)
JudgeServer, reply = judge_server.JudgeServer, judge_server.reply

QUICK = Resampling(num_resamples=100)


def asking(judges, tmp_path, options=None, **more):
    return Asking(judges=judges, store=tmp_path / "v.db", options=options or JudgeOptions(), resampling=QUICK, **more)


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def answers(tmp_path, name, quality):
    rng = np.random.default_rng(len(name))
    rows = [{"prompt": f"p{k}", "completion": f"{rng.normal(quality):.6f}"} for k in range(25)]
    return write(tmp_path / f"{name}.jsonl", rows)


def larger(_text, first, second, one, other):
    return reply(first if float(one) > float(other) else second)


def test_three_policies_by_a_server(tmp_path, capsys):
    files = [answers(tmp_path, name, quality) for name, quality in (("good", 1.0), ("fair", 0.5), ("poorest", 0.0))]
    truth = [[float(json.loads(line)["completion"]) for line in Path(f).read_text().splitlines()] for f in files]
    with JudgeServer(larger) as server:
        options = JudgeOptions(endpoint=Endpoint(base_url=server.url))
        dry = judge(files, None, asking(["server:m"], tmp_path, options, dry_run=True))
        assert dry == {}
        assert server.calls == 0
        assert "150 calls for 150 verdicts (0 are stored)" in capsys.readouterr().out
        found = judge(files, None, asking(["server:m"], tmp_path, options), output=tmp_path / "o.json")
        assert server.calls == 150
        again = judge(files, None, asking(["server:m"], tmp_path, options))
        assert server.calls == 150
    assert again == found
    rate = found["m"].matches["good against fair"].rates
    assert rate.swap_average.value == pytest.approx(np.mean(np.array(truth[0]) > np.array(truth[1])))
    assert rate.consistent.value == 1
    ratings = found["m"].ratings
    assert ratings.von_neumann == pytest.approx([1, 0, 0])
    assert ratings.ratings[0].value > ratings.ratings[1].value > ratings.ratings[2].value
    assert set(found) == {"m", "longest", "coin"}
    written = json.loads((tmp_path / "o.json").read_text())
    assert written["m"]["matches"]["good against fair"]["rates"]["swap_average"]["value"] == rate.swap_average.value
    with VoteStore(tmp_path / "v.db") as store:
        assert {name for one in store.sources().values() for names in one.values() for name in names} == {
            "good", "fair", "poorest",
        }  # fmt: skip


def test_a_judge_that_gives_nothing_has_bounds_and_no_headline(tmp_path, capsys):
    a, b = answers(tmp_path, "one", 1), answers(tmp_path, "other", 0)
    with JudgeServer(lambda *_: "I will not say.") as server:
        options = JudgeOptions(endpoint=Endpoint(base_url=server.url))
        found = judge([a], b, asking(["server:m"], tmp_path, options))
    rates = found["m"].matches["one against other"].rates
    assert rates.swap_average is None
    assert (rates.lower_bound.value, rates.upper_bound.value) == (0, 1)


def test_a_dry_run_makes_no_store_and_an_output_is_checked_before_anybody_is_asked(tmp_path):
    a, b = answers(tmp_path, "one", 1), answers(tmp_path, "other", 0)
    judge([a], b, asking([], tmp_path, dry_run=True))
    assert not (tmp_path / "v.db").exists()
    with JudgeServer(larger) as server:
        options = JudgeOptions(endpoint=Endpoint(base_url=server.url))
        for output, message in ((tmp_path / "no" / "o.json", "is missing"), (Path(a), "is not replaced")):
            with pytest.raises(DiskError, match=message):
                judge([a], b, asking(["server:m"], tmp_path, options), output=output)
        assert server.calls == 0


def test_an_address_with_a_wrong_scheme_goes_nowhere(tmp_path):
    a = answers(tmp_path, "one", 1)
    with pytest.raises(ConfigError, match="begins with http"):
        judge([a], a, asking(["server:m@htp://localhost/v1"], tmp_path))


def test_columns_of_one_file_and_messages(tmp_path):
    rows = [
        {"prompt": [{"role": "user", "content": f"q{k}"}], "policy": "yes indeed", "reference": "no"} for k in range(3)
    ]
    found = judge([write(tmp_path / "samples.jsonl", rows)], "reference", asking([], tmp_path))
    assert found["longest"].matches["samples against reference"].rates.swap_average.value == 1


def test_equal_answers_are_a_tie_and_nobody_is_asked(tmp_path):
    class AskedComparison:
        name = identity = "asked"

        def __call__(self, comparisons):
            self.got = list(comparisons)
            return iter(())

    judge = AskedComparison()
    found = ask_each_once(
        judge, [Comparison("p", ("x", "x")), Comparison("p", ("x", "y")), Comparison("p", ("y", "x"))]
    )
    assert len(judge.got) == 1
    assert [share for share, _ in found[Comparison("p", ("x", "x")).id]] == [0.5, 0.5]


def test_the_order_of_prompts_in_a_file_does_not_matter(tmp_path):
    files = [answers(tmp_path, name, 0) for name in ("a", "bb", "ccc")]
    found = judge(files, None, asking([], tmp_path))
    lines = Path(files[1]).read_text().splitlines(keepends=True)
    Path(files[1]).write_text("".join(lines[::-1]))
    again = judge(files, None, asking([], tmp_path))
    for name, one in found["coin"].pairs.items():
        assert one.value == pytest.approx(again["coin"].pairs[name].value)
    assert found["coin"].ratings.ratings[0].value == pytest.approx(again["coin"].ratings.ratings[0].value)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("different", "none in common"),
        ("missing", "24 prompts in common, and 1 that one of them lacks"),
        ("absent", "no such file of answers"),
        ("judge", "no such judge"),
        ("rater", "has no votes of that rater"),
        ("alone", "name an opponent"),
        ("far", "nothing was sent to example.com"),
        ("column", "has no answer"),
    ],
)
def test_bad_input_is_one_line(tmp_path, mistake, message, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    a = answers(tmp_path, "a", 1)
    rows = [json.loads(line) for line in Path(a).read_text().splitlines()]
    against = {
        "different": write(tmp_path / "b.jsonl", [{"prompt": "else", "completion": "x"}]),
        "missing": write(tmp_path / "c.jsonl", rows[:-1]),
        "absent": str(tmp_path / "no.jsonl"),
        "alone": None,
        "column": write(tmp_path / "d.jsonl", [{"prompt": "p"}]),
    }.get(mistake, a)
    by = {"judge": ["longestt"], "rater": ["votes:bob"], "far": ["server:m@https://example.com/v1"]}.get(mistake, [])
    with pytest.raises((ConfigError, DataError), match=message) as error:
        judge([a], against, asking(by, tmp_path))
    assert len(str(error.value)) < 300


def test_benchmarks_from_published_files(tmp_path, data_folder):
    counts = {
        "llmbar": ("LLMBar", 885, 884),
        "autoj_pairwise": ("Auto-J", 1392, None),
        "pandalm_testset_v1": ("PandaLM", 999, None),
    }
    for file, (name, items, scored) in counts.items():
        path = data_folder / "judge" / f"{file}.jsonl.gz"
        found = judge_benchmark(path, asking([], tmp_path))
        assert (found["benchmark"], found["items"]) == (name, items)
        assert scored in (None, found["scored"])
        assert found["judges"]["oracle"].accuracy.value == 1
        assert found["judges"]["coin"].accuracy.value == pytest.approx(0.5, abs=0.05)
    with pytest.raises(DataError, match="no known benchmark has the columns"):
        judge_benchmark(Path(write(tmp_path / "x.jsonl", [{"a": 1}])), asking([], tmp_path))


def test_agreement_of_people_and_a_judge_from_the_store(tmp_path, capsys):
    rng, rows = np.random.default_rng(0), []
    people = [Rater("person", name) for name in ("anna", "ben", "cleo")]
    for k in range(300):
        pair = Comparison(f"p{k}", ("a", "bb"))
        truth = int(rng.random() < 0.6)  # position of the better answer
        for rater in [*people, Rater("judge", "m", "x")] if k < 120 else [Rater("judge", "m", "x")]:
            said = truth if rng.random() < 0.85 else 1 - truth
            orders = [(0, 1), (1, 0)] if rater.kind == "judge" else [(0, 1)]
            for order in orders:
                outcome = "first" if order[0] == said else "second"
                vote = Vote(
                    comparison=pair.id, rater=rater, order=order, outcome=outcome, nonce=f"{k}{rater.name}{order}"
                )
                rows.append((pair, vote, ("A", "B")))
    with VoteStore(tmp_path / "v.db") as store:
        assert store.add_all(rows) == 120 * 5 + 180 * 2
    found = agree([str(tmp_path / "v.db")], policy="B", output=tmp_path / "o.json", resampling=QUICK)
    assert found["items"] == 120
    assert found["raters"]["m"]["pair"].agreement.value == pytest.approx(0.85**2 + 0.15**2, abs=0.06)
    assert found["raters"]["m"]["pair"].votes == 360
    assert found["raters"]["m"]["alternative_test"].passes
    assert not found["raters"]["longest"]["alternative_test"].passes
    both = found["policies"]["B"]["m"]
    powered = both.powered
    assert (powered.human, powered.judged) == (120, 180)
    assert powered.worth > 120
    assert "worth" in capsys.readouterr().out
    with pytest.raises(DataError, match="known are A, B"):
        agree([str(tmp_path / "v.db")], policy="C", resampling=QUICK)


def test_a_store_without_people_is_refused(tmp_path):
    with VoteStore(tmp_path / "v.db"):
        pass
    with pytest.raises(DataError, match="no votes of people"):
        agree([str(tmp_path / "v.db")])


@pytest.fixture
def told(monkeypatch, capsys):
    """What a command of exptilt says on stderr, and its exit status."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["exptilt", *map(str, words)])
        with pytest.raises(SystemExit) as leaving:
            main()
        return capsys.readouterr(), leaving.value.code

    return call


def test_bad_command_lines_are_one_line(tmp_path, told, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = answers(tmp_path, "a", 1), answers(tmp_path, "b", 0)
    (tmp_path / "grid.yaml").write_text("output: judged\n")
    (tmp_path / "pairs.jsonl").write_text("")
    for words, message in [
        ([], "name the answers to judge, the YAML file of a grid, or --benchmark FILE"),
        ([a], "name an opponent with --against"),
        ([a, a], "named twice"),
        ([a, "--against", b, "--benchmark", "pairs.jsonl"], "leave answers, --against and --html out"),
        ([a, "--against", b, "--budget", "1"], "--budget needs the prices"),
        (["grid.yaml"], "data: missing"),
        (["grid.yaml", "data.train=x", "policies=[{answers: y}]", "--output", "o.json"], "a grid writes into its own folder"),
        ([a, "--against", b, "--by", "votes:nobody"], "has no votes of that rater"),
    ]:  # fmt: skip
        said, code = told("judge", *words)
        assert code == 2
        assert message in said.err, said.err
        assert len([line for line in said.err.splitlines() if "Traceback" in line]) == 0


def test_a_judge_that_always_ties_or_always_takes_the_first_is_told(tmp_path, capsys):
    a, b = answers(tmp_path, "one", 1), answers(tmp_path, "other", 0)
    for says, message in [
        (lambda text, first, second, one, other: reply("tie"), "m: calls 100 % of its comparisons a tie"),
        (lambda text, first, second, one, other: reply(first), "m: prefers the answer shown first in 100 %"),
    ]:
        with JudgeServer(says) as server:
            options = JudgeOptions(endpoint=Endpoint(base_url=server.url))
            judge([a], b, asking(["server:m"], tmp_path, options))
        assert message in capsys.readouterr().out
        (tmp_path / "v.db").unlink()


def test_what_a_dry_run_says(tmp_path, capsys):
    a, b, c = (answers(tmp_path, name, 0) for name in ("a", "bb", "ccc"))
    with JudgeServer(larger) as server:
        options = JudgeOptions(endpoint=Endpoint(base_url=server.url), prices=Prices(prompt=1.0, completion=4.0))
        judge([a], b, asking(["server:m"], tmp_path, options, dry_run=True))
        said = capsys.readouterr().out
        assert "50 calls for 50 verdicts" in said
        # 25 prompts: (1.960 + 0.842) * 0.5 / 5 from one half
        assert "smallest distance from one half that 25 prompts can show (80 % power): 0.280" in said
        assert "between two policies" not in said
        judge([a, b, c], None, asking(["server:m"], tmp_path, options, dry_run=True))
        assert "smallest difference between two policies on the same prompts: 0.339" in capsys.readouterr().out
        assert server.calls == 0
    far = JudgeOptions(endpoint=Endpoint(base_url="https://example.com/v1"))
    judge([a], b, asking(["server:m"], tmp_path, far, dry_run=True))
    assert "no prices were given" in capsys.readouterr().out


def test_a_judge_of_its_own_kin_is_named(tmp_path, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    rows = [{"prompt": f"p{k}", "completion": f"{k % 7}.5"} for k in range(25)]
    write(mine / "samples.jsonl", rows)
    (mine / "sampling.yaml").write_text("identity: abc\nmodel: {path: Org/Judge-7B}\n")
    other = answers(tmp_path, "other", 0)
    with JudgeServer(larger) as one, JudgeServer(lambda *_: reply("tie")) as two:
        judges = [f"server:org/judge-7b@{one.url}", f"server:plain@{two.url}"]
        judge([str(mine)], other, asking(judges, tmp_path), html=tmp_path / "page.html")
    said = " ".join(capsys.readouterr().out.split())
    assert "org/judge-7b judges its own kin in mine against other (both come from org/judge-7b)" in said
    assert "judges its own kin" in (tmp_path / "page.html").read_text()
    write(tmp_path / "notes.html", [{"mine": 1}])
    with pytest.raises(CheckpointError, match="is no report of exptilt"):
        judge([str(mine)], other, asking([], tmp_path), html=tmp_path / "notes.html")


def test_people_asked_two_questions_are_not_mixed(tmp_path):
    rows = []
    for k in range(40):
        pair = Comparison(f"p{k}", ("a", "bb"))
        for name in ("anna", "ben"):
            for question, outcome in (("helpful", "first"), ("short", "second")):
                vote = Vote(
                    comparison=pair.id, rater=Rater("person", name), order=(0, 1), outcome=outcome, question=question,
                    nonce=f"{k} {name} {question}",
                )  # fmt: skip
                rows.append((pair, vote, ()))
    with VoteStore(tmp_path / "v.db") as store:
        store.add_all(rows)
    with pytest.raises(DataError, match=r"2 questions \(helpful, short\); name one with --question"):
        agree([str(tmp_path / "v.db")], resampling=QUICK)
    with pytest.raises(DataError, match="were not asked 'best'"):
        agree([str(tmp_path / "v.db")], question="best", resampling=QUICK)
    found = agree([str(tmp_path / "v.db")], question="short", resampling=QUICK)
    assert found["raters"]["longest"]["pair"].agreement.value == 1


def test_a_reward_of_ones_own_judges(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def brevity(answers):\n    return [-len(answer.text) for answer in answers]\n")
    monkeypatch.chdir(tmp_path)
    a = write(tmp_path / "a.jsonl", [{"prompt": f"p{k}", "completion": "x" * (k + 2)} for k in range(5)])
    b = write(tmp_path / "b.jsonl", [{"prompt": f"p{k}", "completion": "x"} for k in range(5)])
    found = judge([a], b, asking(["reward:mine:brevity"], tmp_path))
    assert found["brevity"].matches["a against b"].rates.swap_average.value == 0
