"""The published length-controlled win rates of AlpacaEval 2, refitted from its own rows."""

import csv
import gzip
import json

import numpy as np
import pytest

from exptilt.evaluation.judged.alpaca_eval_fit import GamedBaselines, fit, predicted_rate


@pytest.fixture(scope="module")
def published(data_folder):
    return _Published(data_folder / "alpaca_eval")


class _Published:
    def __init__(self, folder):
        def rows(path):
            opener = gzip.open if path.suffix == ".gz" else open
            with opener(path, "rt") as file:
                return list(csv.DictReader(file))

        self.difficulty = np.array(
            [float(r["instruction_difficulty"]) for r in rows(folder / "instruction_difficulty.csv")]
        )
        constants = json.loads((folder / "lc_glm_constants.json").read_text())
        self.c = constants["C_inferred_per_model"]
        gaps = {}
        for r in rows(folder / "lc_gamed_lengths.csv"):
            gaps.setdefault(r["gamed_variant"], []).append(float(r["len_baseline"]) - float(r["len_gamed"]))
        sums = constants["gamed_sum_y_x"]
        self.gamed = GamedBaselines.of(
            [np.array(g) for g in gaps.values()],
            self.difficulty,
            [sums["tanh_std_delta_len"], sums["instruction_difficulty"]],
        )
        self.table = {r["model"]: r for r in rows(folder / "lc_published.csv")}
        self.rows = {}
        for r in rows(folder / "lc_preferences.csv.gz"):
            self.rows.setdefault(r["model"], []).append(r)

    def refitted(self, model):
        rows = self.rows[model]
        preference = [float(r["preference"]) for r in rows]
        gap = [float(r["len_baseline"]) - float(r["len_model"]) for r in rows]
        hard = self.difficulty[: len(rows)]  # as published: by position, also where an instruction is missing
        return predicted_rate(fit(preference, gap, hard, self.gamed, self.c[model]), hard)


def test_every_published_model_whose_rows_are_there(published):
    models = [m for m in published.rows if m in published.table and m in published.c]
    error = {m: abs(published.refitted(m) - float(published.table[m]["length_controlled_winrate"])) for m in models}
    assert len(error) == 23
    assert max(error.values()) < 0.02, sorted(error.items(), key=lambda item: -item[1])[:3]


def test_published_weights_predict_published_rates(published):
    off = {}
    for model, row in published.table.items():
        if row["w_bias"] and int(row["n_total"]) == len(published.difficulty):
            weights = [float(row[f"w_{name}"]) for name in ("tanh_std_delta_len", "instruction_difficulty", "bias")]
            off[model] = abs(predicted_rate(weights, published.difficulty) - float(row["length_controlled_winrate"]))
    wrong = {model for model, value in off.items() if value > 1e-6}
    assert len(off) > 150
    assert wrong <= {"NullModel", "dbrx-instruct"}  # whose published weights and rates disagree
