"""A grid of win rates: policies, temperatures, checkpoints, a second data set and prompted baselines in one command."""

import importlib.util
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from exptilt.errors import CheckpointError, ConfigError, DataError, ExptiltError
from exptilt.evaluation.intervals import Resampling
from exptilt.judges.named_judges import JudgeOptions
from exptilt.policies.models import load_model
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.reports.page import write_report
from exptilt.run_folder.judged_record import Judged
from exptilt.runs.run_recipe import run_recipe
from exptilt.servers.endpoint import Endpoint
from exptilt.settings.load import load
from exptilt.settings.model_settings import ModelConfig, SmallModel
from exptilt.settings.recipe import Recipe
from exptilt.studies.judged_grid_settings import JudgedGrid
from exptilt.verbs.judge import Asking, judge_grid

_spec = importlib.util.spec_from_file_location("judge_server", Path(__file__).parents[1] / "judges" / "judge_server.py")
judge_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(judge_server)
JudgeServer, reply = judge_server.JudgeServer, judge_server.reply

QUICK = Resampling(num_resamples=100)


def rows(path, count, opening="the film"):
    made = [
        {"prompt": f"{opening} {n} was", "chosen": " good" + " and good" * (n % 3), "rejected": " bad"}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A base model, and a run of three steps from it with its checkpoints."""
    home = tmp_path_factory.mktemp("grid")
    tokenizer = train_tokenizer(["the film was good and the plot was bad"] * 4, 300)
    size = SmallModel(hidden_size=32, num_layers=1, num_heads=2, max_positions=256, initializer_range=0.2)
    save_model(load_model(ModelConfig(config=size), tokenizer), tokenizer, home / "base")
    recipe = home / "recipe.yaml"
    recipe.write_text(
        f"output: {home / 'run'}\nmodel: {{path: {home / 'base'}}}\ndata: {{train: {rows(home / 'train.jsonl', 12, 'a play')}}}\n"
        "batch: {size: 4}\noptim: {learning_rate: 1.0e-2}\ntrain: {epochs: 1, save_every: 1, keep_checkpoints: 9}\n"
        "evaluate: {num_prompts: 0}\n"
    )
    run_recipe(load(Recipe, recipe))
    rows(home / "test.jsonl", 12)
    rows(home / "new.jsonl", 6, "a new book")
    return home


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def grid(home, output, **more):
    settings = {
        "output": str(output),
        "data": {"train": str(home / "test.jsonl")},
        "policies": [
            {"label": "DPO", "model": {"path": str(home / "run")}, "checkpoints": [1, 3]},
            {"label": "base", "model": {"path": str(home / "base")}},
        ],
        "temperatures": [0.0, 1.0],
        "num_samples": 2,
        "law": {"max_new_tokens": 6},
    } | more
    path = Path(output).parent / f"{Path(output).name}.yaml"
    path.write_text(json.dumps(settings))
    return load(JudgedGrid, path)


def asking(tmp_path, judges=(), options=None, **more):
    return Asking(judges=judges, store=tmp_path / "v.db", options=options or JudgeOptions(), resampling=QUICK, **more)


def shorter(_text, first, second, one, other):
    return reply(first if len(one) < len(other) else second)


def test_policies_temperatures_and_checkpoints_in_one_table(home, tmp_path, capsys):
    made = grid(home, tmp_path / "judged", new_data={"data": {"train": str(home / "new.jsonl")}, "temperatures": [1.0]})
    with JudgeServer(shorter) as server:
        options = JudgeOptions(endpoint=Endpoint(base_url=server.url))
        assert judge_grid(made, asking(tmp_path, ["server:m"], options, dry_run=True)) is None
        assert server.calls == 0
        assert not (tmp_path / "judged").exists()
        record = judge_grid(made, asking(tmp_path, ["server:m"], options))
        calls = server.calls
        again = judge_grid(made, asking(tmp_path, ["server:m"], options))
        assert server.calls == calls
    assert again == record
    assert capsys.readouterr().err.count("drawing") == 9  # by the first run alone
    judge = record.judges[0]
    assert {(c.policy, c.step, c.final, c.temperature, c.data) for c in judge.cells} == {
        (*policy, temperature, data)
        for policy in (("DPO", 1, False), ("DPO", 3, True), ("base", None, True))
        for temperature, data in ((0.0, "test"), (1.0, "test"), (1.0, "new distribution"))
    }
    by = {(c.policy, c.step, c.temperature, c.data): c for c in judge.cells}
    greedy, sampled = by["DPO", 3, 0.0, "test"], by["DPO", 3, 1.0, "test"]
    assert (greedy.verdicts, sampled.verdicts) == (24, 48)  # one answer and two, in both orders
    # the rates are those of the stored answers
    drawn = lines(tmp_path / "judged/samples/dpo/end/test/t-1/samples.jsonl")
    chosen = {row["prompt"]: row["chosen"] for row in lines(home / "test.jsonl")}
    wins = [0.5 if r["completion"] == chosen[r["prompt"]] else float(len(r["completion"]) < len(chosen[r["prompt"]]))
            for r in drawn if len(r["completion"]) != len(chosen[r["prompt"]])]  # fmt: skip
    ties = len(drawn) - len(wins)
    assert sampled.win_rate.value == pytest.approx(
        (sum(wins) + ties / 2) / len(drawn)
    )  # equal lengths: the second, twice


def test_kl_stands_at_temperature_one_alone_and_grows_from_zero(home, tmp_path):
    policies = [
        {"label": "DPO", "model": {"path": str(home / "run")}, "checkpoints": [1]},
        {"label": "base", "model": {"path": str(home / "base")}},
    ]
    record = judge_grid(
        grid(home, tmp_path / "judged", policies=policies, reference={"path": str(home / "base")}), asking(tmp_path)
    )
    kl = {(c.policy, c.step, c.temperature): c.kl for c in record.judges[0].cells}
    assert [kl[key] for key in kl if key[2] == 0.0] == [None] * 3
    assert kl["base", None, 1.0].value == pytest.approx(0, abs=1e-5)
    assert 0 < kl["DPO", 1, 1.0].value < kl["DPO", 3, 1.0].value


def test_prompted_baselines_see_examples_of_the_training_rows_and_no_judged_prompt(home, tmp_path):
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text((home / "test.jsonl").read_text() + (home / "train.jsonl").read_text())
    policies = [
        {"label": "zero", "model": {"path": str(home / "base")}, "prompted": {"instruction": "Say it."}},
        {"model": {"path": str(home / "base")}, "prompted": {"shots": 2, "examples": {"train": str(mixed)}}},
    ]
    record = judge_grid(grid(home, tmp_path / "judged", policies=policies, temperatures=[1.0]), asking(tmp_path))
    assert [c.policy for c in record.judges[0].cells] == ["zero", "base, 2-shot"]
    assert record.judges[0].cells[0].kl is None
    shown = [row["prompt"] for row in lines(tmp_path / "judged/samples/base-2-shot/end/test/t-1/samples.jsonl")]
    own = {row["prompt"] for row in lines(home / "test.jsonl")}
    for prompt in shown:
        *examples, last = prompt.split("\n\n###\n\n")
        assert last in own
        assert len(examples) == 2
        assert all(example.startswith("a play") and " good" in example for example in examples)
    assert len({tuple(prompt.split("\n\n###\n\n")[:2]) for prompt in shown}) == 1
    fewer = [
        {
            "model": {"path": str(home / "base")},
            "prompted": {"shots": 2, "examples": {"train": str(home / "test.jsonl")}},
        }
    ]
    with pytest.raises(DataError, match="2 examples are asked for, and 0 rows"):
        judge_grid(grid(home, tmp_path / "other", policies=fewer), asking(tmp_path))


def test_a_policy_and_a_file_as_opponents(home, tmp_path):
    record = judge_grid(grid(home, tmp_path / "judged", against="base"), asking(tmp_path))
    assert {(c.policy, c.against) for c in record.judges[0].cells} == {("DPO", "base")}
    answers = tmp_path / "people.jsonl"
    prompts = [row["prompt"] for row in lines(home / "test.jsonl")]
    answers.write_text("".join(json.dumps({"prompt": p, "completion": "x" * 99}) + "\n" for p in prompts))
    policies = [{"answers": str(answers)}, {"model": {"path": str(home / "base")}}]
    record = judge_grid(grid(home, tmp_path / "filed", policies=policies), asking(tmp_path))
    cells = {(c.policy, c.temperature): c.win_rate.value for c in record.judges[0].cells}
    assert cells["people", None] == 1  # by `longest`
    answers.write_text("".join(json.dumps({"prompt": p, "completion": "x"}) + "\n" for p in prompts[1:]))
    with pytest.raises(DataError, match="has no answer to 1 prompt of 12"):
        judge_grid(grid(home, tmp_path / "fewer", policies=policies), asking(tmp_path))


def test_the_best_temperature_is_chosen_on_one_half(home, tmp_path):
    record = judge_grid(grid(home, tmp_path / "judged", temperatures=[0.0, 0.5, 1.0]), asking(tmp_path))
    longest = record.judges[0]
    assert {(one.policy, one.step) for one in longest.best} == {("DPO", 1), ("DPO", 3), ("base", None)}
    assert all(one.win_rate.n == 6 for one in longest.best)
    (gap,) = longest.gaps
    assert (gap.first, gap.second, gap.value.n) == ("DPO", "base", 6)
    at = {one.policy: one for one in longest.best if one.final}
    assert gap.value.value == pytest.approx(at["DPO"].win_rate.value - at["base"].win_rate.value)


def test_the_page_and_its_record(home, tmp_path):
    record = judge_grid(
        grid(home, tmp_path / "judged", reference={"path": str(home / "base")}),
        asking(tmp_path),
        command="exptilt judge g",
    )
    page = (tmp_path / "judged" / "report.html").read_text()
    for title in (
        "Win rate against temperature, test",
        "Win rate against steps of training, test",
        "what it cost in KL",
    ):
        assert title in page
    assert Judged.from_dict(json.loads((tmp_path / "judged" / "judged.json").read_text())) == record
    write_report([tmp_path / "judged"])
    assert (tmp_path / "judged" / "report.html").read_text() == page
    both = write_report([home / "run", tmp_path / "judged"], tmp_path / "both.html")
    assert "Win rate against temperature, test" in both.read_text()
    assert json.loads((tmp_path / "both.json").read_text())["judged"]["judges"][0]["name"] == "longest"


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"policies": [{"model": {"path": "BASE"}, "checkpoints": [1]}]}, ConfigError, "is no run folder"),
        ({"policies": [{"model": {"path": "RUN"}, "checkpoints": [77]}]}, CheckpointError, "no checkpoint of step 77; there are 1, 2, 3"),
        ({"against": "nobody.jsonl"}, DataError, "no such file of answers"),
        ({"against": "base", "policies": [{"label": "base", "model": {"path": "BASE"}}]}, ConfigError, "is the only policy"),
        ({"policies": [{"model": {"path": "BASE"}}, {"model": {"path": "BASE"}}]}, ConfigError, "give each a label"),
        ({"policies": [{"label": "x"}]}, ConfigError, "give one of model, server and answers"),
        ({"temperatures": [1.0, 1.0]}, ConfigError, "temperatures must differ"),
        ({"law": {"temperature": 0.5}}, ConfigError, "name temperatures instead"),
    ],
)  # fmt: skip
def test_bad_grids_are_one_line(home, tmp_path, more, error, message):
    named = json.loads(json.dumps(more).replace("BASE", str(home / "base")).replace("RUN", str(home / "run")))
    with pytest.raises(error, match=message) as told:
        judge_grid(grid(home, tmp_path / "judged", **named), asking(tmp_path))
    assert len(str(told.value).splitlines()[-1]) < 300


def test_rows_without_an_answer_cannot_be_the_opponent(home, tmp_path):
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({"prompt": f"p {n}"}) + "\n" for n in range(4)))
    with pytest.raises(DataError, match="4 prompts of 4 have no chosen answer"):
        judge_grid(grid(home, tmp_path / "judged", data={"train": str(bare)}), asking(tmp_path))


class Parrot(BaseHTTPRequestHandler):
    """Completes text by its last word and its temperature, and answers turns by how many there are; fails once."""

    seen: list = []
    broken = True

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(asked)
        said = f" {asked['temperature']} after {len(asked.get('messages', []))} turns ## and more"
        choice = {"index": 0, "finish_reason": "stop", "text": said, "message": {"role": "assistant", "content": said}}
        status = 400 if self.broken and len(self.seen) == 3 else 200
        body = json.dumps({"id": "1", "object": "x", "created": 1, "model": "m", "choices": [choice]}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def parrot():
    Parrot.seen.clear()
    made = ThreadingHTTPServer(("127.0.0.1", 0), Parrot)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}/v1"
    made.shutdown()
    thread.join()
    made.server_close()


def test_a_server_is_a_policy_too_and_what_failed_is_asked_again_alone(tmp_path, parrot):
    turns = [{"prompt": [{"role": "user", "content": f"q{n}"}], "chosen": [{"role": "assistant", "content": "yes"}],
              "rejected": [{"role": "assistant", "content": "no"}]} for n in range(4)]  # fmt: skip
    shown = [{"prompt": [{"role": "user", "content": f"e{n}"}], "completion": [{"role": "assistant", "content": "so"}]}
             for n in range(3)]  # fmt: skip
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turns))
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))
    server = {"url": parrot, "model": "org/parrot", "max_retries": 0, "concurrency": 1}
    prompted = {"shots": 2, "examples": {"train": str(tmp_path / "train.jsonl")}, "instruction": "Be short."}
    made = grid(tmp_path, tmp_path / "judged", policies=[{"server": server, "prompted": prompted}], temperatures=[0.5])
    with pytest.raises(ExptiltError, match="run the same command again"):
        judge_grid(made, asking(tmp_path))
    asked_before = len(Parrot.seen)
    record = judge_grid(made, asking(tmp_path))
    assert (asked_before, len(Parrot.seen)) == (8, 9)  # four prompts, two answers each, one failed
    sent = Parrot.seen[-1]
    assert [turn["role"] for turn in sent["messages"]] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert sent["temperature"] == 0.5
    (cell,) = record.judges[0].cells
    assert (cell.policy, cell.verdicts, cell.win_rate.value) == ("parrot, 2-shot", 16, 1)  # by `longest`
    assert cell.kl is None
