"""Settings of a feeder: the six real configs, and everything a config can get wrong."""

import json
from pathlib import Path

import pytest
from freqtrade.enums import TradingMode

from feeder_mixin.errors import SettingsError
from feeder_mixin.schema import hash48
from feeder_mixin.settings import (
    DEFAULT_CONTEXT_PAIRS,
    FEEDER_KEYS,
    FREQAI_ONLY_KEYS,
    MAX_HORIZON_CANDLES,
    FeederSettings,
    build_settings,
    load_settings,
    read_config,
)

BTC_PAIR = "BTC/USDT:USDT"
USDT_CONTEXT_HASH = 18_625_315_056_550
REPOSITORY = Path(__file__).resolve().parents[1]
FEEDERS = {
    "feeder75a": "long",
    "feeder75b": "long",
    "feeder75c": "long",
    "feeder120a": "short",
    "feeder120b": "short",
    "feeder120c": "short",
}
PATH = Path("config/feeder1.json")


def make_config(**feeder):
    """Return a valid config; keywords go to its feeder block."""
    return {
        "bot_name": "feeder1",
        "timeframe": "5m",
        "trading_mode": "futures",
        "exchange": {"name": "binance", "pair_whitelist": ["ETH/USDT:USDT", "SOL/USDT:USDT"]},
        "feeder": {"side": "long", **feeder},
    }


def build(config):
    """Return the settings of a config dict."""
    return build_settings(config, PATH, Path("/data/bot/user_data"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give a working directory with ``config/feeder1.json``."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "feeder1.json").write_text(json.dumps(make_config()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("feeder", "side"), FEEDERS.items(), ids=FEEDERS)
def test_load_settings_of_each_real_config_succeeds(feeder, side, monkeypatch):
    """The six feeders load with their side; a feeder's own context is its pairs and BTC."""
    monkeypatch.chdir(REPOSITORY)
    settings = load_settings(feeder)
    assert (settings.feeder_id, settings.side) == (feeder, side)
    assert (settings.timeframe, settings.exchange) == ("5m", "binance")
    assert (settings.candle_type, settings.data_format) == ("futures", "feather")
    assert (settings.horizon_candles, settings.max_adverse_ratio) == (30, "auto")
    assert settings.pairs
    assert all(pair.endswith("/USDT:USDT") for pair in settings.pairs)
    assert set(settings.context_pairs) == {*settings.pairs[:DEFAULT_CONTEXT_PAIRS], BTC_PAIR}
    assert settings.root == REPOSITORY
    assert settings.state_dir == REPOSITORY / "user_data" / "feeder_state" / feeder


def test_real_configs_read_by_side_share_no_ports_and_databases():
    """Two feeders on one host must not share a database or an API port."""
    texts = [(REPOSITORY / "config" / f"{feeder}.json").read_text() for feeder in FEEDERS]
    for key in ('"db_url"', '"listen_port"'):
        lines = [line for text in texts for line in text.splitlines() if key in line]
        assert len(set(lines)) == len(FEEDERS)


def test_default_bot_config_loaded_is_a_feeder():
    """``user_data/config.json`` makes the default bot feeder75a."""
    settings = load_settings("feeder75a", REPOSITORY / "user_data" / "config.json")
    assert settings.side == "long"


def test_load_settings_of_unknown_feeder_names_the_known(folder):
    """A typing error in ``--feeder`` is answered with the feeders there are."""
    (folder / "config" / "base.json").write_text("{}")
    with pytest.raises(SettingsError, match=r"feeder2.*Feeders with a config here: feeder1\."):
        load_settings("feeder2")


def test_load_settings_with_other_bot_name_is_refused(folder):
    """A feeder's id is its bot_name: a copied config that kept the old one is an error."""
    (folder / "config" / "feeder2.json").write_text(json.dumps(make_config()))
    with pytest.raises(SettingsError, match="bot_name is 'feeder1', expected 'feeder2'"):
        load_settings("feeder2")


@pytest.mark.parametrize("feeder", ["../feeder1", "", "a b"], ids=repr)
def test_load_settings_of_impossible_id_is_refused(feeder):
    """An id can't leave the config folder."""
    with pytest.raises(SettingsError, match="not valid"):
        load_settings(feeder)


def test_load_settings_of_named_config_reads_it(folder):
    """``--config`` may lie anywhere, and its add_config_files are relative to it."""
    elsewhere = folder / "else" / "where"
    elsewhere.mkdir(parents=True)
    config = make_config()
    base = {"exchange": config.pop("exchange"), "timeframe": "15m"}
    del config["timeframe"]
    (elsewhere / "base.json").write_text(json.dumps(base))
    config |= {"bot_name": "feeder9", "add_config_files": ["base.json"]}
    (elsewhere / "mine.json").write_text(json.dumps(config))
    settings = load_settings("feeder9", elsewhere / "mine.json")
    assert (settings.feeder_id, settings.timeframe) == ("feeder9", "15m")
    assert settings.config_paths == (elsewhere / "mine.json",)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{", id="broken-json"),
        pytest.param("[]", id="list"),
        pytest.param("", id="empty"),
    ],
)
def test_load_settings_of_unreadable_config_names_the_file(folder, text):
    """A config that is no JSON object is named."""
    (folder / "config" / "feeder1.json").write_text(text)
    with pytest.raises(SettingsError, match=r"feeder1\.json"):
        load_settings("feeder1")


def test_load_settings_with_missing_added_file_names_the_config(folder):
    """A missing file of add_config_files is a settings error."""
    config = make_config() | {"add_config_files": ["missing.json"]}
    (folder / "config" / "feeder1.json").write_text(json.dumps(config))
    with pytest.raises(SettingsError, match=r"missing\.json"):
        load_settings("feeder1")


@pytest.mark.parametrize(
    ("name", "text", "attribute", "expected"),
    [
        pytest.param("MAX_ADVERSE_RATIO", "0.02", "max_adverse_ratio", 0.02, id="float"),
        pytest.param("HORIZON_CANDLES", "12", "horizon_candles", 12, id="int"),
        pytest.param("TRAIN_DAYS", "90", "train_days", 90, id="int-for-float"),
        pytest.param("SIDE", "short", "side", "short", id="text"),
    ],
)
def test_load_settings_with_environment_variable_overrides(
    folder, monkeypatch, name, text, attribute, expected
):
    """Environment variables of freqtrade override the file, as they do in the bot."""
    monkeypatch.setenv(f"FREQTRADE__FEEDER__{name}", text)
    assert getattr(load_settings("feeder1"), attribute) == expected
    assert folder.is_dir()


def test_load_settings_with_wrong_environment_variable_is_refused(folder, monkeypatch):
    """A wrong override is an error, too."""
    monkeypatch.setenv("FREQTRADE__FEEDER__MAX_ADVERSE_RATIO", "1 %")
    with pytest.raises(SettingsError, match="max_adverse_ratio='1 %'"):
        load_settings("feeder1")
    assert folder.is_dir()


def test_settings_paths_are_anchored_at_the_parent_of_user_data(folder, monkeypatch):
    """Wherever a process is started, state and data are where user_data is."""
    user_data = folder / "bot" / "user_data"
    config = folder / "config" / "feeder1.json"
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    settings = load_settings("feeder1", config, user_data)
    assert settings.root == folder / "bot"
    assert settings.state_dir == user_data / "feeder_state" / "feeder1"
    assert settings.default_datadir == user_data / "data" / "binance"
    assert load_settings("feeder1", config).user_data_dir == elsewhere / "user_data"


def test_settings_with_user_data_dir_in_the_config_uses_it(folder):
    """The config's own user_data_dir counts where no option names one."""
    config = make_config() | {"user_data_dir": str(folder / "mine")}
    (folder / "config" / "feeder1.json").write_text(json.dumps(config))
    assert load_settings("feeder1").user_data_dir == folder / "mine"
    assert load_settings("feeder1", None, folder / "other").user_data_dir == folder / "other"


def test_build_settings_of_a_minimal_block_fills_the_defaults():
    """Only the side must be given."""
    settings = build(make_config())
    assert settings.context_pairs == (BTC_PAIR, "ETH/USDT:USDT", "SOL/USDT:USDT")
    assert (settings.train_days, settings.retrain_hours) == (150.0, 24.0)
    assert (settings.last_good_max_days, settings.store_url) == (None, None)
    assert settings.check_store_minutes is None


def test_build_settings_with_many_pairs_takes_the_first_ten_as_context():
    """The default context is the first ten pairs of the list, plus BTC, sorted."""
    config = make_config()
    pairs = [f"C{i:02d}/USDT:USDT" for i in range(15, 0, -1)]
    config["exchange"]["pair_whitelist"] = [*pairs, pairs[0]]
    settings = build(config)
    assert settings.pairs == tuple(pairs)
    assert settings.context_pairs == tuple(sorted([*pairs[:10], BTC_PAIR]))


def test_build_settings_with_context_pairs_takes_exactly_them():
    """Named context pairs are the context: sorted, without repeats, nothing added."""
    pairs = ["XRP/USDT:USDT", "ETH/USDT:USDT", "XRP/USDT:USDT"]
    assert build(make_config(context_pairs=pairs)).context_pairs == (
        "ETH/USDT:USDT",
        "XRP/USDT:USDT",
    )


def test_build_settings_of_every_key_takes_each():
    """Each fixed key reaches its setting."""
    values = {
        "horizon_candles": MAX_HORIZON_CANDLES,
        "max_adverse_ratio": 0.5,
        "store_url": "sqlite:///x.sqlite",
        "train_days": 60,
        "retrain_hours": 0.5,
        "last_good_max_days": 7,
        "check_store_minutes": 5,
    }
    settings = build(make_config(**values))
    assert {key: getattr(settings, key) for key in values} == values


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("side", "LONG", id="side-case"),
        pytest.param("side", None, id="side-null"),
        pytest.param("side", ["long"], id="side-list"),
        pytest.param("horizon_candles", 0, id="horizon-0"),
        pytest.param("horizon_candles", MAX_HORIZON_CANDLES + 1, id="horizon-289"),
        pytest.param("horizon_candles", 30.0, id="horizon-float"),
        pytest.param("horizon_candles", "30", id="horizon-text"),
        pytest.param("horizon_candles", True, id="horizon-bool"),
        pytest.param("max_adverse_ratio", 0, id="tolerance-0"),
        pytest.param("max_adverse_ratio", -0.01, id="tolerance-negative"),
        pytest.param("max_adverse_ratio", 1.5, id="tolerance-percent"),
        pytest.param("max_adverse_ratio", float("nan"), id="tolerance-nan"),
        pytest.param("max_adverse_ratio", True, id="tolerance-bool"),
        pytest.param("context_pairs", [], id="context-empty"),
        pytest.param("context_pairs", "BTC/USDT:USDT", id="context-text"),
        pytest.param("context_pairs", [1], id="context-number"),
        pytest.param("store_url", "", id="store-empty"),
        pytest.param("store_url", 5, id="store-number"),
        pytest.param("train_days", 0, id="train-0"),
        pytest.param("train_days", "150", id="train-text"),
        pytest.param("retrain_hours", -1, id="retrain-negative"),
        pytest.param("retrain_hours", float("inf"), id="retrain-infinite"),
        pytest.param("last_good_max_days", 0, id="last-good-0"),
        pytest.param("last_good_max_days", None, id="last-good-null"),
        pytest.param("check_store_minutes", 0, id="check-0"),
        pytest.param("check_store_minutes", -5, id="check-negative"),
        pytest.param("check_store_minutes", "5", id="check-text"),
        pytest.param("check_store_minutes", True, id="check-bool"),
        pytest.param("check_store_minutes", float("nan"), id="check-nan"),
        pytest.param("check_store_minutes", 1e-9, id="check-without-end"),
    ],
)
def test_build_settings_with_wrong_value_names_key_value_and_expectation(key, value):
    """A wrong value stops the start with file, key, value and what was expected."""
    with pytest.raises(SettingsError) as caught:
        build(make_config(**{key: value}))
    assert f"{PATH}: feeder.{key}={value!r}, expected" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        pytest.param("horizon_candle", "did you mean 'horizon_candles'?", id="near"),
        pytest.param("xyz", "known: side, horizon_candles", id="far"),
    ],
)
def test_build_settings_with_unknown_key_suggests(key, hint):
    """A mistyped key is an error, never a silent default."""
    with pytest.raises(SettingsError) as caught:
        build(make_config(**{key: 30}))
    assert f"unknown key feeder.{key}" in str(caught.value)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param(("feeder",), None, "no feeder block with a side", id="no-block"),
        pytest.param(("feeder",), {}, "no feeder block with a side", id="no-side"),
        pytest.param(("bot_name",), None, "bot_name is None", id="no-bot-name"),
        pytest.param(("bot_name",), "a b", "not valid", id="bad-bot-name"),
        pytest.param(("timeframe",), None, "timeframe=None", id="no-timeframe"),
        pytest.param(("exchange",), None, r"exchange\.name is missing", id="no-exchange"),
        pytest.param(("exchange", "name"), "", r"exchange\.name is missing", id="no-name"),
        pytest.param(("exchange", "pair_whitelist"), None, "pair_whitelist=None", id="no-pairs"),
        pytest.param(("exchange", "pair_whitelist"), [], "a list of pairs", id="empty-pairs"),
        pytest.param(
            ("exchange", "pair_whitelist"),
            ["BTC/USDT:USDT", ".*/USDT:USDT"],
            r"pair_whitelist has '\.\*/USDT:USDT'",
            id="wildcard",
        ),
        pytest.param(
            ("exchange", "pair_whitelist"), ["BTCUSDT"], "has 'BTCUSDT'", id="exchange-spelling"
        ),
        pytest.param(
            ("feeder", "context_pairs"), [".*/USDT:USDT"], "context_pairs has", id="wild-context"
        ),
    ],
)
def test_build_settings_with_wrong_config_says_what(path, value, message):
    """What freqtrade's part of the config lacks is said with its key."""
    config = make_config()
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(SettingsError, match=message):
        build(config)


def test_build_settings_default_context_of_usdt_pairs_is_what_it_always_was():
    """Records carry the hash of the context: the owner's must not move."""
    config = make_config()
    config["exchange"]["pair_whitelist"] = ["ETH/USDT:USDT", "SOL/USDT:USDT", "XRP/USDT:USDT"]
    settings = build(config)
    assert settings.context_pairs == (BTC_PAIR, "ETH/USDT:USDT", "SOL/USDT:USDT", "XRP/USDT:USDT")
    assert hash48(*settings.context_pairs) == USDT_CONTEXT_HASH


def test_settings_with_context_of_what_is_there_leave_out_the_rest():
    """What nobody has candles of is context for nobody; without any the list stays, to be named."""
    settings = build(make_config())
    there = settings.with_context(lambda pair: not pair.startswith("BTC"))
    assert there.context_pairs == ("ETH/USDT:USDT", "SOL/USDT:USDT")
    assert settings.with_context(lambda _: False) == settings


@pytest.mark.parametrize(
    ("mode", "pairs", "btc"),
    [
        pytest.param("futures", ["ETH/USDC:USDC", "SOL/USDC:USDC"], "BTC/USDC:USDC", id="usdc"),
        pytest.param("futures", ["BTC/USDC:USDC", "ETH/USDC:USDC"], "BTC/USDC:USDC", id="own-btc"),
        pytest.param("spot", ["ETH/EUR", "SOL/EUR"], "BTC/EUR", id="spot"),
    ],
)
def test_build_settings_default_context_has_btc_in_the_pairs_own_currency(mode, pairs, btc):
    """Never a BTC of another settle currency, which the exchange may not have."""
    config = make_config() | {"trading_mode": mode}
    config["exchange"]["pair_whitelist"] = pairs
    assert build(config).context_pairs == tuple(sorted({*pairs, btc}))


@pytest.mark.parametrize("mode", ["spot", TradingMode.SPOT, None], ids=["text", "enum", "absent"])
def test_build_settings_of_a_spot_long_feeder_takes_spot_pairs(mode):
    """Spot is freqtrade's own default, and a LONG feeder runs on it as on futures."""
    config = make_config() | ({} if mode is None else {"trading_mode": mode})
    if mode is None:
        del config["trading_mode"]
    config["exchange"]["pair_whitelist"] = ["ETH/USDT", "SOL/USDT"]
    settings = build(config)
    assert (settings.candle_type, settings.pairs) == ("spot", ("ETH/USDT", "SOL/USDT"))


@pytest.mark.parametrize("mode", ["spot", TradingMode.SPOT], ids=["text", "enum"])
def test_build_settings_of_a_spot_short_feeder_is_refused_with_the_reason(mode):
    """Nothing can be sold short there; the value is shown as it was written."""
    config = make_config(side="short") | {"trading_mode": mode}
    config["exchange"]["pair_whitelist"] = ["ETH/USDT"]
    with pytest.raises(SettingsError, match=r"side='short' with trading_mode='spot': nothing can"):
        build(config)


@pytest.mark.parametrize(
    ("mode", "pair", "message"),
    [
        pytest.param("futures", "BTC/USDT", r"'BTC/USDT' \(that is a spot pair.*'BTC/USDT:USDT'"),
        pytest.param(TradingMode.SPOT, "BTC/USDT:USDT", r"\(that is a futures pair.*is 'spot'"),
        pytest.param("spot", ".*/USDT", r"has '\.\*/USDT'; a feeder needs each spot pair"),
        pytest.param(
            TradingMode.MARGIN, "BTC/USDT", r"trading_mode='margin', expected 'futures' or"
        ),
        pytest.param(5, "BTC/USDT", "trading_mode=5, expected"),
    ],
    ids=["spot-pair", "futures-pair", "wildcard", "margin", "number"],
)
def test_build_settings_of_another_markets_pair_says_which_market_it_is(mode, pair, message):
    """A pair of the other market would look for candles that no download makes."""
    config = make_config() | {"trading_mode": mode}
    config["exchange"]["pair_whitelist"] = [pair]
    with pytest.raises(SettingsError, match=message):
        build(config)


@pytest.mark.parametrize(
    "pairlists",
    [
        pytest.param([{"method": "StaticPairList"}], id="static"),
        pytest.param([{"method": "StaticPairList"}, {"method": "AgeFilter"}], id="filter"),
        pytest.param([{"method": "StaticPairList"}, {"method": "VolumePairList"}], id="orders"),
        pytest.param([{"method": "StaticPairList"}, {"method": "RemotePairList"}], id="remote"),
        pytest.param([], id="none"),
    ],
)
def test_build_settings_with_pairlists_that_order_or_filter_is_fine(pairlists):
    """What begins with the config's pairs and adds none leaves every pair a record."""
    assert build(make_config() | {"pairlists": pairlists}).pairs


@pytest.mark.parametrize(
    ("pairlists", "named"),
    [
        pytest.param([{"method": "VolumePairList"}], "VolumePairList", id="generates"),
        pytest.param(
            [{"method": "StaticPairList"}, {"method": "ProducerPairList"}],
            "ProducerPairList",
            id="producer",
        ),
        pytest.param(
            [
                {"method": "StaticPairList"},
                {"method": "RemotePairList", "processing_mode": "append"},
            ],
            "RemotePairList",
            id="appends",
        ),
    ],
)
def test_build_settings_with_pairlists_that_bring_in_pairs_is_refused_with_the_reason(
    pairlists, named
):
    """A pair that is not in the config has no record, and would never be safe without a word."""
    with pytest.raises(SettingsError, match=rf"'{named}' in pairlists picks pairs.*StaticPairList"):
        build(make_config() | {"pairlists": pairlists})


@pytest.mark.parametrize("feeder", ["75a", "75b", "75c", "120a", "120b", "120c"])
def test_context_of_the_six_feeders_is_written_out_and_is_the_default(feeder):
    """One more pair in the whitelist then asks for one more model; records fit as before."""
    path = Path(f"config/feeder{feeder}.json")
    config = read_config([path])
    written = config["feeder"].pop("context_pairs")
    by_list = build_settings(config, path, Path("user_data"))
    assert tuple(written) == by_list.context_pairs


def test_model_that_would_be_too_old_before_the_next_is_due_is_refused():
    """An age below the retraining would make every candle before it unsafe."""
    with pytest.raises(SettingsError, match=r"model_max_age_hours=24, expected more than.*=48"):
        build(make_config(retrain_hours=48, model_max_age_hours=24))


def test_default_age_of_a_model_follows_a_rare_retraining():
    """A config that retrains once a month needs no second key."""
    assert build(make_config()).model_max_age_hours == 360
    assert build(make_config(retrain_hours=720)).model_max_age_hours == 1440


@pytest.mark.parametrize("name", sorted(FEEDER_KEYS.keys() - set(FREQAI_ONLY_KEYS)))
def test_default_that_pages_show_is_the_one_in_force(name):
    """A number in the table of settings is not written beside another one in the code."""
    default = FeederSettings.__dataclass_fields__[name].default
    if isinstance(default, int | float):
        assert FEEDER_KEYS[name].default.split(",")[0] == f"{default:g}"
