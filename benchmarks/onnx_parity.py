"""How exact a served model is: our exporter beside skl2onnx and onnxmltools, on the same fitted models and the same rows.

    python benchmarks/onnx_parity.py [--train 150000] [--rows 100000] [--rounds 3]

Models are fitted on flights from New York in 2013 with the weather, and with the departure as seconds since 1970 (1.36e9 in steps
of a minute), a column as real tables have them. Compared are held-out rows, of which one in twenty is broken: gaps in any column
and categories that training did not have. The library's own prediction is the truth.

All graphs take the encoded matrix: ours column by column in float64, the stock converters' as one float32 or float64 matrix, as
they allow. `wrong` are rows more than 1e-9 off, `far` more than 1e-5; ONNX Runtime with one thread, the best of the rounds.
Writes benchmarks/results/onnx_parity.json.
"""

import argparse
import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import lightgbm as lgb
import numpy as np
import polars as pl
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType as ToolsFloat
from skl2onnx import to_onnx
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from kfp_foundry.components.common import samples
from kfp_foundry.components.common.artifacts.model import open_session
from kfp_foundry.components.common.contract import Contract
from kfp_foundry.components.common.learning.data import part
from kfp_foundry.components.common.learning.encode import fit_plan
from kfp_foundry.components.common.onnx import heads, hist_gradient_trees, lightgbm_trees
from kfp_foundry.components.common.onnx.calibration import Isotonic
from kfp_foundry.components.common.onnx.graph import DOUBLE, Graph

RESULT = Path(__file__).parent / "results" / "onnx_parity.json"
TEXTS = ["carrier", "origin", "dest", "tailnum"]
NUMBERS = ["sched_dep_minute", "sched_arr_minute", "distance", "departure", *samples.WEATHER]
STOCK_OPSET = {"": 21, "ai.onnx.ml": 3}

Answer = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=150_000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    trees, linear, target, rows, linear_rows = tables(options.train, options.rows)
    result = {"machine": machine(), "rows": options.rows, "models": {}}
    for name, (native, forms, matrix) in models(trees, linear, target, rows, linear_rows).items():
        result["models"][name] = compare(native(matrix), forms, matrix, options.rounds)
        print(name, json.dumps(result["models"][name], indent=1), flush=True)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


def tables(train: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The encoded training matrix for trees and for a linear model, the target, and the held-out matrices."""
    table = samples.flights().with_columns(departure=pl.col("time_hour").dt.epoch("s") + pl.col("sched_dep_minute") % 60 * 60)
    fields = [f"{{name: {name}, type: string}}" for name in TEXTS] + [f"{{name: {name}, type: number}}" for name in NUMBERS]
    contract = Contract.parse(f"task: binary\nfields: [{', '.join(fields)}, {{name: late, type: boolean, role: target}}]")
    shuffled = table.sample(fraction=1, shuffle=True, seed=1).with_columns(pl.col(NUMBERS).cast(pl.Float64))
    first = part(shuffled[:train], shuffled["late"][:train], contract, [False, True], "train")
    held_out = broken(part(shuffled[train : train + rows], shuffled["late"][train : train + rows], contract, [False, True], "rows").feed)
    plan, one_hot = fit_plan(first, contract, "hist_gradient_boosting"), fit_plan(first, contract, "linear")
    return plan.matrix(first.feed), one_hot.matrix(first.feed), first.target, plan.matrix(held_out), one_hot.matrix(held_out)


def broken(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One row in twenty gets gaps and unseen categories."""
    rng = np.random.default_rng(2)
    chosen = rng.random(len(feed["carrier"])) < 0.05
    result = {}
    for name, values in feed.items():
        draw = rng.random(len(values))
        if values.dtype == object:
            result[name] = np.where(chosen & (draw < 0.3), "never seen", np.where(chosen & (draw < 0.6), "", values))
        else:
            result[name] = np.where(chosen & (draw < 0.2), np.nan, values)
    return result


def models(trees: np.ndarray, linear: np.ndarray, target: np.ndarray, rows: np.ndarray, linear_rows: np.ndarray) -> dict:
    """For each fitted model: its own prediction, and the graphs that should equal it."""
    codes = list(range(len(TEXTS)))
    settings = {"objective": "binary", "num_leaves": 63, "deterministic": True, "force_row_wise": True, "verbosity": -1, "seed": 7}
    plain = lgb.train(settings, lgb.Dataset(trees, target), 200)
    native = lgb.train(settings, lgb.Dataset(trees, target, categorical_feature=codes), 200)
    categorical = np.isin(np.arange(trees.shape[1]), codes)
    hgb = HistGradientBoostingClassifier(max_iter=200, early_stopping=False, random_state=7).fit(trees, target)
    hgb_native = HistGradientBoostingClassifier(max_iter=200, early_stopping=False, random_state=7, categorical_features=categorical).fit(
        trees, target
    )
    logistic = LogisticRegression(max_iter=300).fit(linear, target)
    base = HistGradientBoostingClassifier(max_iter=60, early_stopping=False, random_state=7)
    isotonic = CalibratedClassifierCV(base, method="isotonic", cv=3, ensemble=False).fit(trees, target)
    return {
        "LightGBM": (plain.predict, {"ours": ours_lightgbm(plain), "onnxmltools": tools_lightgbm(plain)}, rows),
        "LightGBM, native categories": (native.predict, {"ours": ours_lightgbm(native), "onnxmltools": tools_lightgbm(native)}, rows),
        "HistGradientBoosting": (proba(hgb), {"ours": ours_hgb(hgb), **stock(hgb, trees.shape[1])}, rows),
        "HistGradientBoosting, native categories": (proba(hgb_native), {"ours": ours_hgb(hgb_native), **stock(hgb_native, trees.shape[1])}, rows),
        "logistic regression": (proba(logistic), {"ours": ours_logistic(logistic), **stock(logistic, linear.shape[1])}, linear_rows),
        "HistGradientBoosting, isotonic": (proba(isotonic), {"ours": ours_isotonic(isotonic), **stock(isotonic, trees.shape[1])}, rows),
    }


def proba(model: object) -> Answer:
    return lambda matrix: model.predict_proba(matrix)[:, 1]


def ours(columns: int, scores: Callable[[Graph, str], str], finish: Callable[[Graph, str], str]) -> Callable[[], Answer]:
    def make() -> Answer:
        names = [f"column{i}" for i in range(columns)]
        graph = Graph(names)
        matrix = graph.beside([graph.column(graph.input(name, DOUBLE)) for name in names])
        graph.output(finish(graph, scores(graph, matrix)), "probability", DOUBLE)
        session = open_session(graph.model().SerializeToString())
        return lambda rows: session.run(["probability"], {name: np.ascontiguousarray(rows[:, i]) for i, name in enumerate(names)})[0]

    return make


def sigmoid(graph: Graph, scores: str) -> str:
    return heads.emit_link(graph, scores, "sigmoid")


def ours_lightgbm(booster: lgb.Booster) -> Callable[[], Answer]:
    return ours(booster.num_feature(), lambda graph, matrix: lightgbm_trees.forest(booster.dump_model()).emit(graph, matrix, 1), sigmoid)


def hgb_scores(model: HistGradientBoostingClassifier) -> Callable[[Graph, str], str]:
    return lambda graph, matrix: hist_gradient_trees.emit(graph, matrix, model._predictors, model._baseline_prediction.reshape(-1))


def ours_hgb(model: HistGradientBoostingClassifier) -> Callable[[], Answer]:
    return ours(model.n_features_in_, hgb_scores(model), sigmoid)


def ours_logistic(model: LogisticRegression) -> Callable[[], Answer]:
    def scores(graph: Graph, matrix: str) -> str:
        return graph.op("Add", graph.op("MatMul", matrix, graph.doubles(model.coef_.T)), graph.doubles([model.intercept_]))

    return ours(model.n_features_in_, scores, sigmoid)


def ours_isotonic(model: CalibratedClassifierCV) -> Callable[[], Answer]:
    inner = model.calibrated_classifiers_[0]
    fitted = inner.calibrators[0]
    curve = Isotonic(scores=fitted.X_thresholds_.tolist(), probabilities=fitted.y_thresholds_.tolist())
    return ours(inner.estimator.n_features_in_, hgb_scores(inner.estimator), lambda graph, scores: curve.emit(graph, graph.vector(scores)))


def tools_lightgbm(booster: lgb.Booster) -> Callable[[], Answer]:
    def make() -> Answer:
        types = [("X", ToolsFloat([None, booster.num_feature()]))]
        return probabilities(convert_lightgbm(booster, initial_types=types, target_opset=15, zipmap=False).SerializeToString(), np.float32)

    return make


def stock(model: object, columns: int) -> dict[str, Callable[[], Answer]]:
    def make(kind: type, dtype: type) -> Callable[[], Answer]:
        def convert() -> Answer:
            graph = to_onnx(model, initial_types=[("X", kind([None, columns]))], options={id(model): {"zipmap": False}}, target_opset=STOCK_OPSET)
            return probabilities(graph.SerializeToString(), dtype)

        return convert

    return {"skl2onnx float32": make(FloatTensorType, np.float32), "skl2onnx float64": make(DoubleTensorType, np.float64)}


def probabilities(onnx: bytes, dtype: type) -> Answer:
    session = open_session(onnx)
    name = session.get_outputs()[1].name
    return lambda rows: session.run([name], {"X": rows.astype(dtype)})[0][:, 1]


def compare(truth: np.ndarray, forms: dict[str, Callable[[], Answer]], matrix: np.ndarray, rounds: int) -> dict:
    answers: dict[str, Answer] = {}
    found: dict[str, dict] = {}
    for name, make in forms.items():
        try:
            answers[name] = make()
            off = np.abs(answers[name](matrix) - truth)
        except Exception as error:  # what a converter or the runtime makes of a model it does not know is the finding
            answers.pop(name, None)
            found[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}
            continue
        flips = int(((answers[name](matrix) >= 0.5) != (truth >= 0.5)).sum())
        found[name] = {"max_difference": float(off.max()), "wrong": int((off > 1e-9).sum()), "far": int((off > 1e-5).sum()), "changed_labels": flips}
    best = dict.fromkeys(answers, float("inf"))
    for _ in range(rounds):  # by turns, so that other work on the machine meets all alike
        for name, answer in answers.items():
            begun = time.perf_counter()
            answer(matrix)
            best[name] = min(best[name], time.perf_counter() - begun)
    for name, seconds in best.items():
        found[name]["rows_per_second"] = round(len(matrix) / seconds)
    return found


def machine() -> dict:
    names = ["numpy", "lightgbm", "scikit-learn", "onnxruntime", "onnx", "skl2onnx", "onnxmltools"]
    versions = {name: version(name) for name in names}
    return {
        "cpu": platform.processor(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "load_1_min": round(os.getloadavg()[0], 1),
        **versions,
    }


if __name__ == "__main__":
    main()
