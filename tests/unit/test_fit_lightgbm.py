"""LightGBM's binned tables are shared between fits, and no fit can tell."""

import dataclasses

import numpy as np
import pytest

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.learning import fit_lightgbm
from kfp_foundry.components.common.learning.learner import Examples, Job
from kfp_foundry.components.common.learning.parameters import LIGHTGBM
from kfp_foundry.components.common.learning.stopped import Stopped

PLAIN = {"num_iterations": 8, "learning_rate": 0.2, "num_leaves": 9}
# Another value for each parameter that may be set; those of some only work beside others.
OTHER = {
    "alpha": 0.7, "bagging_fraction": 0.6, "bagging_freq": 1, "bin_construct_sample_cnt": 300, "boost_from_average": False,
    "boosting": "dart", "cat_l2": 1.0, "cat_smooth": 1.0, "cegb_penalty_split": 0.01, "cegb_tradeoff": 0.5,
    "data_sample_strategy": "goss", "drop_rate": 0.5, "enable_bundle": False, "extra_trees": True, "fair_c": 2.0,
    "feature_fraction": 0.5, "feature_fraction_bynode": 0.5, "is_unbalance": True, "lambda_l1": 1.0, "lambda_l2": 5.0,
    "learning_rate": 0.05, "max_bin": 15, "max_cat_threshold": 2, "max_cat_to_onehot": 1, "max_delta_step": 0.1, "max_depth": 3,
    "max_drop": 1, "min_data_in_bin": 50, "min_data_in_leaf": 300, "min_data_per_group": 10, "min_gain_to_split": 1.0,
    "min_sum_hessian_in_leaf": 10.0, "monotone_constraints_method": "advanced", "monotone_penalty": 1.0,
    "neg_bagging_fraction": 0.5, "num_iterations": 5, "num_leaves": 31, "objective": "binary", "other_rate": 0.2,
    "path_smooth": 5.0, "poisson_max_delta_step": 0.1, "pos_bagging_fraction": 0.5, "scale_pos_weight": 3.0, "skip_drop": 0.0,
    "top_rate": 0.1, "tweedie_variance_power": 1.2, "uniform_drop": True, "xgboost_dart_mode": True,
}  # fmt: skip
BESIDE = {
    "bagging_fraction": {"bagging_freq": 1},
    "bagging_freq": {"bagging_fraction": 0.5},
    "neg_bagging_fraction": {"bagging_freq": 1, "pos_bagging_fraction": 0.5},
    "pos_bagging_fraction": {"bagging_freq": 1, "neg_bagging_fraction": 0.5},
    **{key: {"boosting": "dart"} for key in ["drop_rate", "max_drop", "skip_drop", "uniform_drop", "xgboost_dart_mode"]},
    **{key: {"data_sample_strategy": "goss", "learning_rate": 0.5} for key in ["other_rate", "top_rate"]},
}


@pytest.fixture(scope="module")
def job():
    """600 training rows: two categories, a sparse column, a column of gaps and two numbers."""
    rng = np.random.default_rng(7)

    def rows(count):
        matrix = np.column_stack([
            rng.integers(0, 12, count), rng.integers(0, 3, count), rng.random(count) * (rng.random(count) < 0.1),
            np.where(rng.random(count) < 0.3, np.nan, rng.normal(size=count)), rng.normal(size=count), rng.normal(size=count),
        ])  # fmt: skip
        target = (matrix[:, 0] % 3 + matrix[:, 4] + rng.normal(size=count) > 1).astype(np.int64)
        return Examples(matrix, target, rng.random(count) + 0.5)

    return Job(
        task=Task.BINARY,
        classes=2,
        train=rows(600),
        validation=rows(200),
        categorical=[0, 1],
        monotone=[0, 0, 0, 0, 1, 0],
        params=PLAIN,
        early_stopping_rounds=3,
        seed=7,
        threads=1,
    )


def text(job, **params):
    return fit_lightgbm.fit(dataclasses.replace(job, params={**PLAIN, **params})).native["model.txt"]


def test_every_parameter_that_may_be_set_has_another_value_here():
    assert set(OTHER) == set(LIGHTGBM)


@pytest.mark.parametrize("name", LIGHTGBM)
def test_a_fit_on_shared_tables_is_the_fit_on_its_own_to_the_last_byte(job, name):
    params = {**BESIDE.get(name, {}), name: OTHER[name]}
    sharing = dataclasses.replace(job, shared={})
    before = text(sharing)
    assert text(sharing, **params) == text(job, **params)
    assert text(sharing) == before == text(job)


@pytest.mark.parametrize("name", fit_lightgbm.BINNING)
def test_a_parameter_that_decides_binning_gets_a_table_of_its_own(job, name):
    sharing = dataclasses.replace(job, shared={})
    text(sharing)
    text(sharing, learning_rate=0.3)
    assert len(sharing.shared) == 1
    text(sharing, **{name: OTHER[name]})
    assert len(sharing.shared) == 2


def test_only_a_few_tables_are_kept(job):
    sharing = dataclasses.replace(job, shared={})
    for bins in range(10, 30):
        text(sharing, max_bin=bins)
    assert len(sharing.shared) == fit_lightgbm.KEPT


def test_who_watches_sees_every_round_and_changes_nothing(job):
    seen = []
    watched = dataclasses.replace(job, watch=lambda number, values: seen.append((number, values().copy())))
    assert text(watched) == text(job)
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    assert all(values.shape == (200,) and ((values > 0) & (values < 1)).all() for _, values in seen)


def test_who_watches_can_end_the_fit(job):
    def stop(number, values):
        if number == 3:
            raise Stopped

    with pytest.raises(Stopped):
        text(dataclasses.replace(job, watch=stop))


def test_the_predictions_that_are_watched_are_those_of_the_model(job):
    seen = []
    watched = dataclasses.replace(job, early_stopping_rounds=0, watch=lambda _, values: seen.append(values().copy()))
    fitted = fit_lightgbm.fit(watched)
    np.testing.assert_allclose(seen[-1], 1 / (1 + np.exp(-fitted.scores(job.validation.matrix))), rtol=1e-12)
