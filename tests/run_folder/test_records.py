"""Every file of a run folder: what is written is read again, a renamed key is noticed, older files are readable."""

from __future__ import annotations

import json
import math

import pytest

from exptilt.errors import CheckpointError
from exptilt.run_folder.data_record import DataReport, Example, Finding, Lengths, SourceReport, SplitReport
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.evaluation_record import (
    AnswerCalibration,
    BestOf,
    Bin,
    Calibration,
    ChesRow,
    ChesSummary,
    Displacement,
    Diversity,
    Evaluation,
    Gainer,
    KlCheck,
    LawRecord,
    LengthSlope,
    Margins,
    Scores,
    Sections,
    Slice,
)
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.frontier_record import (
    BestOfNByReward,
    BestOfNPoint,
    Components,
    Frontier,
    Optimum,
    Point,
    Pooled,
    Proxy,
    SeedSpread,
)
from exptilt.run_folder.judged_record import BestTemperature, JudgeColumn, Judged, JudgedCell, JudgedGap, KinNote
from exptilt.run_folder.metrics_file import MetricsFile, MetricsLine
from exptilt.run_folder.record import FORMAT
from exptilt.run_folder.record_reader import RecordReader
from exptilt.run_folder.report_record import (
    AnswerRecord,
    ConclusionRecord,
    RemarkRecord,
    ReportedDifference,
    ReportedRun,
    ReportRecord,
)
from exptilt.run_folder.run_record import (
    Caution,
    KeptWeights,
    ModelFacts,
    ReferenceIdentity,
    RoundRecord,
    RunRecord,
    SampledPolicy,
    TokenBudget,
)
from exptilt.run_folder.samples_record import PairMargin, SideBySide, StepSample
from exptilt.run_folder.study_record import MeasuredSamples, ReferenceSamples, StudyFacts

E = Estimate(value=0.5, low=0.25, high=0.75, level=0.95, n=12)
CONCLUSION = ConclusionRecord(
    headline="It worked.", answers=(AnswerRecord(question="?", answer="Yes", detail="So.", tone="good"),)
)
FULL = {
    "run.json": RunRecord(
        name="dpo", exptilt="0.1.0", started="2026-01-05T10:00:00+00:00", finished=None, status="failed", seed=0,
        reason="a loss is not finite",
        versions={"torch": "2.13.0"}, hardware="Linux", processes=2, steps=3, seconds=1.5, command="exptilt train r.yaml",
        token_budget=TokenBudget(
            tokens=512, limit="memory", bytes_per_token=9, fixed_bytes=8, free_bytes=7, device="cpu", processes=2
        ),
        reference=ReferenceIdentity(identity="3f2a", source="the start"), model=ModelFacts(name="m", parameters=9),
        warnings=(Caution(step=1, name="drift", message="far", advice="raise beta", value=1.5, limit=1.0, alarm=True),),
        kept=KeptWeights(step=2, metric="eval/loss", value=0.5),
        rounds=(
            RoundRecord(
                number=1, status="trained", prompts="3f", num_comparisons=4, num_rows=3, left_out={"ties": 1}, run="round-1",
                start=SampledPolicy(num_prompts=2, num_samples=8, reward=E, kl=E, length=E, ended=E),
            ),
        ),
        after_rounds=SampledPolicy(num_prompts=2, num_samples=8, reward=E, kl=E, length=E, ended=E),
    ),
    "data.json": DataReport(
        source=None, kind="pair", test=None,
        train=SplitReport(
            source="a.jsonl", format="pair", rows=9, rows_left_out={"tie": 1}, examples=8, kept=7,
            examples_left_out={"empty": 1}, lengths={"prompt": Lengths(least=1, median=2.0, p95=3.0, most=4, total=9)},
            longer_chosen=0.5, more_markup_chosen=0.25, p_chosen=(0.5, 0.75, 1.0), num_desirable=1, num_undesirable=2,
            repeated=3, columns_not_read=("id",),
            sources=(SourceReport(path="a", format="pair", rows=9, records=8, weight=2.0, licence="MIT"),),
        ),
        findings=(Finding(code="tie", severity="warning", count=1, examples=("a:1",), message="a tie", fix="drop"),),
        examples=(Example(id="a:1", prompt="p", completions=((("yes", True), (".", False)),)),),
    ),
    "evaluation.json": Evaluation(
        accuracy={"with_reference": {"sum": E}}, auc=E, auc_by_score={"with_reference/sum": E}, longest_wins=E,
        diversity={"policy_samples": Diversity(entropy_per_token=E, distinct_per_prompt=E, num_samples=2)},
        best_of=BestOf(sections={"Math": E}, overall=E, num_questions=2), by_familiarity=(Slice(name="far", accuracy=E),),
        answers={"after": AnswerCalibration(calibration=Calibration(ece=0.5, null_band=(0.0, 0.1)), accuracy=E)},
        by_longer=(Slice(name="chosen", accuracy=E, num_pairs=4),), by_length_gap=(Slice(name="0-1", accuracy=E),),
        calibration=Calibration(ece=0.5, error=E, bins=(Bin(low=0.5, high=0.6, predicted=0.5, observed=1.0, count=2),)),
        num_pairs=4, num_prompts=3, lengths={"chosen": E}, length_difference=E, length_change=E,
        detectable_difference=0.1, margins=Margins(edges=(0.0, 1.0), counts=(4,)), log_loss=E, num_ties=2,
        scores=Scores(edges=(0.0, 1.0), chosen=(1,), rejected=(2,), spread=0.5),
        reward_on_length={"data": LengthSlope(slope=E, r_squared=E), "samples": None},
        sections=Sections(
            subsets={"a": E}, sections={"A": E}, overall=E, absent=("b",), weights={"A": {"a": 1.0}}, num_pairs=4,
            num_without_label=1, not_measured="",
        ),
        displacement=Displacement(
            chosen=E, rejected=E, mean=E, forced=E, remainder=E,
            gainers=(Gainer(prompt="p", completion="c", log_ratio=1.0),),
            ches=ChesSummary(score=E, normalised=E, highest=(ChesRow(id="a:1", normalised=0.5),)),
        ),
        sampling_law=LawRecord(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=8), ended={"policy_samples": E},
        kl=E, kl_check=KlCheck(kl=E, k1=E, k1_minus_kl=E, by_prompt=(0.5, 0.25), num_samples=4), reward={"gain": E},
        reference=ReferenceIdentity(identity="3f2a", source="the start"),
    ),
    "frontier.json": Frontier(
        reward_name="sentiment", each="mask", prompts="images", log_m=4.0, limit_kl=3.5, reference_reward=E, num_prompts=2, num_samples=4,
        optimum=Optimum(kl=(0.0, 1.0), reward=(0.5, 1.0), low=(0.25, 0.5), high=(0.75, 2.0), trusted=(True, False)),
        pooled=Pooled(policies=("dpo",), samples_each=4), command="exptilt frontier f.yaml", facts={"accuracy": 0.9},
        reference_diversity=Diversity(entropy_per_token=E),
        spreads=(
            SeedSpread(
                objective="DPO", seeds=(0, 1), reward=Components(mean=E, num_seeds=2, sd_of_seeds=0.1, error_of_prompts=0.2),
                kl=Components(mean=E, num_seeds=2, sd_of_seeds=0.1, error_of_prompts=0.2),
            ),
        ),
        proxies=(
            Proxy(
                name="length", kl=(0.0, 1.0), proxy=(1.0, 2.0), gold=(0.5, 0.25), low=(0.0, 0.0), high=(1.0, 1.0),
                solid_kl=0.5, best_kl=0.0, best=E, end=E,
            ),
        ),
        points=(
            Point(
                name="dpo", method="DPO", kl=E, reward=E, gain=E, fraction=E, kl_fraction=E, gap=E, above_optimum=E,
                solid=True, notes=("far",), length=E, beta=0.1, steps=3, final=False, run="dpo-0", seed=1, kl_check=E,
                ended=E,
            ),
        ),
        best_of_n=(BestOfNPoint(n=2, kl=0.2, kl_is="upper bound", kl_bound=0.2, reward=E),),
        best_of_n_by=(
            BestOfNByReward(
                name="length", is_true=False, kl=(0.0, 0.2), kl_is="plug-in estimate", kl_bound=(0.0, 0.2), chosen_by=(1.0, 2.0),
                chosen_by_sd=0.5, gold=(0.5, 0.25), low=(0.0, 0.0), high=(1.0, 1.0), best_n=1, best=E, end=E, fall=E,
            ),
        ),
    ),
    "report.json": ReportRecord(
        title="dpo", verdict=CONCLUSION, frontier=None, judged={"judges": []}, missing=("curves",),
        runs=(
            ReportedRun(
                name="dpo", config={"seed": 0}, run={}, data={}, metrics={"step": [1.0], "train/loss": [None]},
                evaluation={}, samples=({"policy_score": 0.5, "reference_score": None},), verdict=CONCLUSION,
                is_this_normal=AnswerRecord(question="?", answer="Yes", detail="So.", tone="good"),
            ),
        ),
        paired=(
            ReportedDifference(
                name="b", base="a", num_pairs=1, num_prompts=1, detectable=2.0, differences={"x": E.as_dict()}
            ),
        ),
        cautions=(RemarkRecord(number="W1", message="m", fix="f"),),
    ),
    "judged.json": Judged(
        title="win-rates", command="exptilt judge win-rates.yaml",
        judges=(
            JudgeColumn(
                name="m", identity="server m", is_yardstick=False,
                cells=(
                    JudgedCell(
                        title="DPO T=1, test against chosen", policy="DPO", against="chosen", data="test", temperature=1.0,
                        step=20, final=True, kl=E, win_rate=E, together=E, slot_corrected=E, length_controlled=E,
                        consistent=E, ties=E, lower_bound=E, upper_bound=E, unscored=1, verdicts=24, equal_answers=2,
                        doubts=("calls 96 % of its comparisons a tie",),
                    ),
                ),
                best=(
                    BestTemperature(
                        policy="DPO", data="test", step=20, final=True, temperature=0.5, win_rate=E, on_choosing_half=0.5,
                        optimism=0.25,
                    ),
                ),
                gaps=(JudgedGap(first="DPO", second="SFT", data="test", where="against chosen", value=E),),
                kin=(KinNote(title="DPO against chosen", base="org/base", more_than_others=E),),
            ),
        ),
    ),
    "points/dpo.json": MeasuredSamples(
        measured_with="ab", num_prompts=1, kl=(0.5,), k1=(0.25,), reward=(1.0,), length=(3,), ended=(1.0,), logps=(-2.0,), distinct=(1,),
        texts=("t",),
    ),
    "reference.json": ReferenceSamples(
        measured_with="ab", rewards=((1.0,),), log_probs=((-2.0,),), prompts=("p",), texts=("t",), identity="3f",
        ids=((5, 2),),
    ),
    "bench.json": StudyFacts(facts={"terms": 3}),
}  # fmt: skip
LINES = {
    "samples.jsonl": SideBySide(prompt="é", policy="a", reference="b", policy_score=1.0, reference_score=0.5),
    "samples/step-000020.jsonl": StepSample(prompt="p", completion="c", tokens=3, ended=True, kl=0.5),
    "evaluation-margins.jsonl": PairMargin(pair="ab", prompt="cd", log_ratio=0.5, likelihood=-0.25, score=1.5),
}


@pytest.mark.parametrize("name", FULL)
def test_what_is_written_is_read_again(tmp_path, name):
    folder, record = RunFolder(tmp_path), FULL[name]
    assert record.model_fields_set >= set(type(record).model_fields) - {"format"}, "the test gives every field"
    folder.write(name, record)
    content = json.loads((tmp_path / name).read_text())
    assert content["format"] == FORMAT
    assert next(iter(content)) == "format"
    reader = RecordReader(tmp_path)
    assert folder.record(type(record), name) == reader.record(type(record), name) == record
    assert reader.all_notices() == ()
    assert reader.record(type(record), name).as_dict() == content


@pytest.mark.parametrize("name", LINES)
def test_what_is_written_line_by_line_is_read_again(tmp_path, name):
    record = LINES[name]
    assert record.model_fields_set == set(type(record).model_fields), "the test gives every field"
    RunFolder(tmp_path).write_lines(name, [record, record])
    assert RecordReader(tmp_path).records(type(record), name) == (record, record)


@pytest.mark.parametrize("name", FULL)
def test_every_key_of_a_file_is_one_its_record_knows(name):
    """A key that is renamed on one side only comes back as unknown."""
    record = FULL[name]

    def unknown(node):
        if hasattr(node, "model_extra"):
            yield from node.model_extra or {}
            node = [getattr(node, field) for field in type(node).model_fields]
        if isinstance(node, dict):
            node = list(node.values())
        if isinstance(node, list | tuple):
            for child in node:
                yield from unknown(child)

    assert list(unknown(type(record).from_dict(record.as_dict()))) == []
    assert list(unknown(type(record).from_dict(record.as_dict() | {"renamed": 1}))) == ["renamed"]


EVALUATION_KEYS = [
    "accuracy",
    "auc",
    "auc_by_score",
    "longest_wins",
    "by_longer",
    "by_length_gap",
    "calibration",
    "num_pairs",
    "num_prompts",
    "lengths",
    "length_difference",
    "length_change",
    "detectable_difference",
    "margins",
    "reward_on_length",
    "sections",
    "displacement",
    "sampling_law",
    "ended",
    "kl",
    "kl_check",
    "reward",
    "reference",
    "format",
]
RUN_KEYS = [
    "name",
    "exptilt",
    "started",
    "finished",
    "status",
    "seed",
    "versions",
    "hardware",
    "processes",
    "token_budget",
    "reference",
    "warnings",
    "steps",
    "seconds",
    "model",
    "command",
    "format",
]
DATA_KEYS = ["source", "kind", "train", "test", "findings", "examples", "format"]
FRONTIER_KEYS = [
    "reward_name",
    "optimum",
    "log_m",
    "limit_kl",
    "reference_reward",
    "num_prompts",
    "num_samples",
    "pooled",
    "proxies",
    "points",
    "best_of_n",
    "best_of_n_by",
    "command",
    "facts",
    "format",
]


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("evaluation.json", EVALUATION_KEYS),
        ("run.json", RUN_KEYS),
        ("data.json", DATA_KEYS),
        ("frontier.json", FRONTIER_KEYS),
    ],
)
def test_the_keys_of_format_1_are_these(name, names):
    """Programs read these files: a key may be added here, and is renamed only with a new format."""
    assert FORMAT == 1
    assert set(FULL[name].as_dict()) >= set(names)


@pytest.mark.parametrize("name", ["evaluation.json", "run.json", "data.json", "frontier.json"])
def test_a_file_of_an_older_version_may_lack_any_key(tmp_path, name):
    record = FULL[name]
    for key in record.as_dict():
        content = {other: value for other, value in record.as_dict().items() if other != key}
        (tmp_path / name).write_text(json.dumps(content))
        RecordReader(tmp_path).record(type(record), name)
    (tmp_path / name).write_text("{}")
    assert RecordReader(tmp_path).record(type(record), name).format == 0


def test_unknown_keys_survive_a_rewrite_and_a_newer_format_is_noticed(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"format": 9, "new": {"a": 1}, "status": "running"}))
    reader = RecordReader(tmp_path)
    reader.record(RunRecord, "run.json")
    assert "run.json: is of format 9, and this version of exptilt knows 1" in reader.all_notices()[0]
    folder = RunFolder(tmp_path)
    folder.update_manifest(status="done")
    content = json.loads((tmp_path / "run.json").read_text())
    assert content == {"format": 1, "new": {"a": 1}, "status": "done"}


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda: Evaluation(kll=E), "not permitted"),
        (lambda: Evaluation(detectable_difference=math.nan), "finite number"),
        (lambda: Evaluation(num_pairs="4"), "valid integer"),
        (lambda: Evaluation(num_pairs=4.5), "valid integer"),
        (lambda: Margins(edges=[0.0, 1.0], counts=(4,)), "valid tuple"),
        (lambda: RunRecord().updated(stauts="done"), "not permitted"),
        (lambda: RunRecord().updated(seconds=math.inf), "finite number"),
        (lambda: Estimate(value=0.5, hihg=1.0), "not permitted"),
        (lambda: Estimate(value=0.5, low=1.0, high=0.0), "low 1 is above high 0"),
    ],
)
def test_a_writer_is_held_to_keys_types_and_finite_numbers(make, wrong):
    with pytest.raises(ValueError, match=wrong):
        make()


def test_an_end_that_is_not_known_is_null(tmp_path):
    one = Estimate(value=0.5, low=-math.inf, high=math.inf, level=0.95, n=1)
    assert one.as_dict() == {"value": 0.5, "low": None, "high": None, "level": 0.95, "n": 1}
    assert Estimate.from_dict(one.as_dict()) == one
    assert (one.interval, one.excludes(9.0), str(one)) == (None, False, "0.500 [unknown]")


def test_a_warning_in_the_words_of_an_older_file(tmp_path):
    (tmp_path / "run.json").write_text('{"warnings": [{"number": "W1", "message": "m", "fix": "f"}]}')
    assert RunFolder(tmp_path).run.warnings == (Caution(name="W1", message="m", advice="f"),)


def test_a_metric_that_is_not_finite_is_null_and_counted(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append(MetricsLine(1, 0.5, {"train/loss": 0.25, "train/kl": math.nan}))
    file.append(MetricsLine(2, 1.0, {"train/loss": math.inf}))
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    with (tmp_path / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 3, "tra')
    reader = RecordReader(tmp_path)
    assert reader.metrics() == (
        {"step": 1.0, "epoch": 0.5, "train/loss": 0.25},
        {"step": 2.0, "epoch": 1.0},
    )
    assert [notice[:25] for notice in reader.all_notices()] == [
        "metrics.jsonl: line 3 is ",
        "2 values in the files are",
    ]
    for values in ({"step": 1.0}, {"train/loss": "low"}, {"train/loss": True}):
        with pytest.raises(ValueError, match="metric"):
            file.append(MetricsLine(4, 1.0, values))


def test_a_broken_record_names_file_and_key(tmp_path):
    (tmp_path / "run.json").write_text('{"steps": "three"}')
    with pytest.raises(CheckpointError, match=r"run\.json: steps: must be a valid integer"):
        RunFolder(tmp_path).run  # noqa: B018 - reading is the act


def test_warnings_of_a_phase_come_first_and_its_alarms_count_as_far_as_its_model_goes():
    early, late = Caution(step=2, name="runaway", alarm=True), Caution(step=9, name="below_uniform", alarm=True)
    phase = RunRecord(warnings=(early, late), kept=KeptWeights(step=4, metric="eval/loss", value=1.0))
    own = Caution(step=7, name="flat")
    run = RunRecord(warnings=(own,), kept=KeptWeights(step=1, metric="eval/loss", value=1.0))
    together = run.warnings_with_phase("sft", phase)
    assert [(one.phase, one.step, one.alarm) for one in together] == [
        ("sft", 2, True),
        ("sft", 9, False),
        (None, 7, False),
    ]
    whole = run.updated(warnings=together)
    assert [one.name for one in whole.alarms] == ["runaway"]
    assert whole.warnings_with_phase("sft", phase) == together
