from __future__ import annotations

import io
import json

import numpy as np
from rich.console import Console

from exptilt.data.account.data_report import lengths_among
from exptilt.data.account.data_terminal import findings_table, print_report, show_examples
from exptilt.data.groups import Completion, Group
from exptilt.data.prepared import prepare, prepare_records
from exptilt.data.records import Preference
from exptilt.run_folder.data_record import DataReport, Finding, Lengths
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.source_settings import SourceConfig


def plain_console():
    return Console(file=io.StringIO(), width=200, force_terminal=False)


def test_lengths_by_hand():
    assert lengths_among([1, 2, 4, 10, 20]) == Lengths(least=1, median=4.0, p95=18.0, most=20, total=37)


def test_the_printed_report_has_counts_lengths_and_findings(base_tokenizer):
    records = [
        Preference(id="a.jsonl:1", prompt="[bold]the", chosen=" cat sat", rejected=" dog"),
        Preference(id="a.jsonl:2", prompt="fox", chosen="", rejected=" dog"),
    ]
    config = DataConfig(train="x", on_empty="drop")
    console = plain_console()
    print_report(prepare_records(records, base_tokenizer, "pair", config=config).report, console)
    lines = [line.strip() for line in console.file.getvalue().splitlines()]
    assert "2 rows read, 1 examples kept; left out: 1 empty" in lines
    at = lines.index("warning empty")
    assert lines[at + 1 : at + 3] == [
        "a.jsonl:2: chosen is empty or only white space",
        "-> handled: data.on_empty=drop",
    ]
    assert [line.split()[0] for line in lines[2:6]] == ["tokens", "prompt", "chosen", "rejected"]


def test_a_finding_names_its_first_row_in_words_and_the_others_by_number():
    said = {"severity": "error", "code": "empty", "message": "a.jsonl:1: chosen is empty", "fix": "repair the row"}
    finding = Finding(count=7, examples=("a.jsonl:1", "a.jsonl:5", "b.jsonl:2"), **said)
    console = plain_console()
    console.print(findings_table((finding,)))
    assert [line.strip() for line in console.file.getvalue().splitlines()] == [
        "error empty, 7 rows",
        "a.jsonl:1: chosen is empty",
        "also 5, b.jsonl:2, ...",
        "-> repair the row",
    ]


def test_examples_show_which_tokens_count(base_tokenizer):
    ids = np.array(base_tokenizer("the cat sat[red]")["input_ids"], dtype=np.int32)
    counted = np.ones(len(ids), dtype=bool)
    counted[:2] = False
    group = Group(id="a.jsonl:1", prompt=ids, completions=(Completion(ids=ids, counted=counted),))
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="standard")
    show_examples([group, group], base_tokenizer, console, 1)
    shown = console.file.getvalue()
    assert shown.count("a.jsonl:1") == 1
    assert f"completion 1 ({len(ids) - 2} tokens count)" in shown
    assert f"\x1b[33m{base_tokenizer.decode(ids[:2])}\x1b[0m" in shown
    assert f"\x1b[32m{base_tokenizer.decode(ids[2:])}\x1b[0m" in shown


def test_as_plain_values_the_report_holds_what_a_page_shows_and_comes_back(chat_tokenizer):
    turns = [("assistant", "a"), ("user", "more"), ("assistant", "b")]
    records = [
        Preference(
            id=f"a.jsonl:{n}",
            prompt=({"role": "user", "content": f"Q{n}"},),
            chosen=tuple({"role": role, "content": said} for role, said in turns),
            rejected=({"role": "assistant", "content": "c"},),
            p_chosen=0.9,
        )
        for n in range(5)
    ]
    report = prepare_records(records, chat_tokenizer, "pair").report
    said = json.loads(json.dumps(report.as_dict()))
    assert len(said["examples"]) == 3
    assert said["examples"][1]["prompt"] == "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n"
    chosen, rejected = said["examples"][0]["completions"]
    assert [text for text, counted in chosen if counted] == ["a<|im_end|>", "b<|im_end|>"]
    assert rejected == [["c<|im_end|>", True]]
    assert said["train"]["p_chosen"] == [0.9, 0.9, 0.9]
    assert {"code", "severity", "count", "examples", "message", "fix"} == said["findings"][0].keys()
    assert DataReport.from_dict(said) == report


def test_sources_are_printed_with_weight_and_licence(tmp_path):
    paths = []
    for name in "ab":
        paths.append(tmp_path / f"{name}.jsonl")
        rows = [{"prompt": f"{name}{n}", "chosen": "**x**", "rejected": "y"} for n in range(10)]
        paths[-1].write_text("\n".join(json.dumps(row) for row in rows))
    mixture = (SourceConfig(path=str(paths[1]), weight=2, licence="MIT"),)
    console = plain_console()
    print_report(prepare(DataConfig(train=str(paths[0]), mixture=mixture), None, "pair").report, console)
    shown = " ".join(console.file.getvalue().replace("\n", "").split())
    assert "b.jsonl (preference): 10 rows, 10 records, weight 2, licence MIT" in shown
    assert "the one with more markup in 100.0 % of those that differ in it" in shown
    assert "10 of them are copies made by weights" in shown
