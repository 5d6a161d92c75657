"""Which configs describe a FreqAI bot, what they decide, and what is wrong with the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from feeder_mixin.errors import SettingsError
from feeder_mixin.freqai.settings import FreqaiSettings, build_bot_settings
from feeder_mixin.freqai.targets import Target
from feeder_mixin.settings import FeederSettings
from tests.freqai.conftest import BOT, PAIRS, TRAINING, freqai_block, freqai_config


def build(**changes):
    """Return the settings that the FreqAI bot's config makes with some keys changed."""
    return build_bot_settings(freqai_config(**changes), "test.json", Path("/somewhere/user_data"))


def test_config_with_freqai_and_no_side_is_a_freqai_bot():
    """Targets and the config's own parameters are the config's; the store is the feeders'."""
    settings = build()
    assert isinstance(settings, FreqaiSettings)
    assert (settings.feeder_id, settings.pairs, settings.kind) == (BOT, PAIRS, "freqai")
    assert settings.targets == (Target("&-min_low", 0.1), Target("&-future_close", 0.75))
    assert settings.model_training_parameters == TRAINING
    assert settings.state_dir == Path("/somewhere/user_data/feeder_state/my_freqai")


def test_config_names_all_candles_that_are_read():
    """Correlated pairs and the timeframes of features, each once."""
    settings = build(timeframe="5m")
    assert (settings.market_pairs, settings.market_timeframes) == (PAIRS, ("5m", "15m"))
    others = {"include_corr_pairlist": ["X/USDT:USDT"], "include_timeframes": ["1h"]}
    settings = build(freqai=freqai_block(feature_parameters=others))
    assert settings.market_pairs == (*PAIRS, "X/USDT:USDT")
    assert settings.market_timeframes == ("5m", "1h")


def test_config_without_feeder_block_or_bot_name_is_called_by_its_identifier():
    """An unchanged FreqAI config is enough: its id is the identifier, its targets' loss is squared."""
    config = freqai_config()
    del config["feeder"], config["bot_name"]
    settings = build_bot_settings(config, "test.json", Path("/somewhere/user_data"))
    assert (settings.feeder_id, settings.targets) == ("example", ())


def test_config_with_a_side_is_a_feeder_whatever_freqai_says():
    """A feeder's strategy may use FreqAI for something else, as it always could."""
    assert isinstance(build(feeder={"side": "long"}), FeederSettings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"freqai": {"enabled": False}}, "freqai.enabled=False, expected true", id="off"
        ),
        pytest.param(
            {"freqai": freqai_block(identifier="")}, "freqai.identifier='', expected", id="no_id"
        ),
        pytest.param(
            {"bot_name": "", "freqai": freqai_block(identifier="my bot/1")},
            r"freqai.identifier='my bot/1' is the id of its records.*bot_name",
            id="identifier_that_is_no_id",
        ),
        pytest.param(
            {"freqai": freqai_block(model_training_parameters={"eta": "fast"})},
            "model_training_parameters.learning_rate='fast', expected a number",
            id="text_for_a_number",
        ),
        pytest.param(
            {"feeder": {"freqai_targets": {"&-a": {"quantile": 1.5}}}},
            r"feeder.freqai_targets=.*1.5.*expected an object of target",
            id="level_outside",
        ),
        pytest.param(
            {"feeder": {"freqai_targets": {"min_low": {"quantile": 0.1}}}},
            "name of a target begins with '&', got 'min_low'",
            id="no_target_name",
        ),
        pytest.param(
            {"feeder": {"freqai_targets": {"&-a": {"alpha": 0.1}}}},
            "expected an object of target",
            id="unknown_key_of_a_target",
        ),
        pytest.param(
            {"feeder": {"horizon_candles": 30}},
            "unknown key feeder.horizon_candles",
            id="key_of_the_built_in_model",
        ),
        pytest.param({"freqai": None}, "no feeder block with a side", id="no_freqai_block"),
        pytest.param(
            {"freqai": freqai_block(feature_parameters=["5m"])},
            r"feature_parameters=\['5m'\], expected an object",
            id="features_that_are_a_list",
        ),
        pytest.param(
            {"freqai": freqai_block(feature_parameters={"include_timeframes": "5m"})},
            "feature_parameters.include_timeframes='5m', expected a list of texts",
            id="timeframes_that_are_a_text",
        ),
        pytest.param(
            {"freqai": freqai_block(feature_parameters={"include_corr_pairlist": [1]})},
            r"feature_parameters.include_corr_pairlist=\[1\], expected a list of texts",
            id="correlated_pairs_that_are_numbers",
        ),
    ],
)
def test_wrong_config_is_one_error_with_key_and_value(changes, message):
    """What is wrong is named, with what was expected."""
    with pytest.raises(SettingsError, match=message):
        build(**changes)


def test_targets_of_a_feeder_with_a_side_are_refused():
    """The key means nothing to the built-in model."""
    with pytest.raises(SettingsError, match=r"unknown key feeder.freqai_targets"):
        build(feeder={"side": "long", "freqai_targets": {"&-a": {}}})
