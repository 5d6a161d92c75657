"""From a record, or a config's own values, to what LightGBM is told."""

from __future__ import annotations

import pytest
from lightgbm import LGBMRegressor
from lightgbm.basic import _ConfigAliases

from feeder_mixin.freqai.parameters import SPELLINGS, config_parameters, training_parameters
from feeder_mixin.schema import PARAMETER_BY_NAME, default_parameters
from tests.freqai.conftest import TRAINING

NATIVE = {
    "n_estimators": "num_iterations",
    "min_child_samples": "min_data_in_leaf",
    "reg_alpha": "lambda_l1",
    "reg_lambda": "lambda_l2",
    "quantile_alpha": "alpha",
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_are_all_that_lightgbm_takes(name):
    """A config's value is never missed for its spelling, nor kept beside a record's."""
    assert set(SPELLINGS[name]) == _ConfigAliases.get(NATIVE.get(name, name))
    assert SPELLINGS[name][0] == PARAMETER_BY_NAME[name].lightgbm_name


def test_config_parameters_are_the_configs_with_lightgbms_defaults():
    """What the config is silent about is what LightGBM does then; nothing is clipped to a range."""
    fallback = LGBMRegressor().get_params()
    values = config_parameters(TRAINING)
    for name, spellings in SPELLINGS.items():
        if name != "quantile_alpha":
            assert values[name] == {**fallback, **TRAINING}[spellings[0]]
    assert (values["max_depth"], values["num_leaves"]) == (-1, 64)
    assert config_parameters({"num_boost_round": 7, "eta": 0.3})["n_estimators"] == 7


def test_record_replaces_the_configs_values_however_they_are_spelled():
    """LightGBM gets each of the nine values once; threads, seed and early stopping stay."""
    block = {
        "eta": 0.3,
        "num_trees": 800,
        "bagging_freq": 5,
        "n_jobs": 2,
        "early_stopping_rounds": 9,
    }
    tuned = default_parameters()
    made = training_parameters(block, tuned)
    assert made.keys() & {"eta", "num_trees", "bagging_freq", "alpha"} == set()
    assert (made["n_jobs"], made["early_stopping_rounds"], made["subsample_freq"]) == (2, 9, 1)
    for name, parameter in PARAMETER_BY_NAME.items():
        if name != "quantile_alpha":
            assert made[parameter.lightgbm_name] == tuned[name]


def test_without_a_record_the_configs_block_is_as_it_is():
    """Nothing is added or left out: FreqAI's own models would get the same."""
    assert training_parameters(TRAINING, None) == TRAINING
