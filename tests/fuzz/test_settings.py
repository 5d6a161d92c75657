"""Configs, store URLs and tokens of any content."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from feeder_mixin.errors import FeederError
from feeder_mixin.settings import build_settings
from feeder_mixin.stores.masking import masked_store_url
from feeder_mixin.stores.url import KNOWN_KINDS, choose_store_url, open_store
from tests import strategies

CONFIG = {
    "bot_name": "feeder75a",
    "trading_mode": "futures",
    "timeframe": "5m",
    "dataformat_ohlcv": "feather",
    "exchange": {"name": "binance", "pair_whitelist": ["BTC/USDT:USDT", "ETH/USDT:USDT"]},
    "feeder": {
        "side": "long",
        "horizon_candles": 30,
        "max_adverse_ratio": 0.01,
        "context_pairs": ["BTC/USDT:USDT"],
        "store_url": "sqlite:///a.sqlite",
        "train_days": 150,
        "retrain_hours": 24,
        "last_good_max_days": 7,
        "check_store_minutes": 5,
    },
}
SECRET = "s3cr3t-T0ken"  # noqa: S105  (of no server)


def test_config_of_any_values_gives_settings_or_our_error(fuzz, tmp_path):
    """Any value in any place; what is accepted names a state folder below user_data."""

    def check(config):
        if not isinstance(config, dict):
            return
        made = build_settings(config, "config.json", tmp_path / "user_data")
        assert made.state_dir.parent == tmp_path / "user_data" / "feeder_state"
        assert made.side in ("long", "short")
        assert made.pairs
        assert 0 < made.train_days <= 3650
        hash(made)

    fuzz(strategies.mutated_documents(CONFIG), check, 150)


url_parts = st.text(max_size=10) | st.sampled_from(
    (
        "host:8086",
        "[::1",
        "user@host",
        "h:99999",
        "?org=A",
        "&b=1",
        "#x",
        "/",
        "%00",
        "\n",
        "é",
        "..",
    )
)
urls = st.tuples(
    st.sampled_from((*KNOWN_KINDS, "http", "", "SQLITE")),
    st.sampled_from(("://", ":///", ":", "")),
    st.lists(url_parts, max_size=4).map("".join),
).map("".join)


def test_store_url_of_any_text_opens_or_is_our_error_and_nothing_is_made(fuzz, tmp_path):
    """Nothing is contacted or created by opening; messages can always be made."""
    block = {key: value for key, value in CONFIG["feeder"].items() if key != "store_url"}
    feeder = build_settings({**CONFIG, "feeder": block}, Path("c.json"), tmp_path / "user_data")

    def check(url):
        chosen, origin = choose_store_url(url, {}, feeder)
        assert origin == ("--store" if url else "default")
        assert isinstance(masked_store_url(chosen), str)
        environ = {"FEEDER_STORE_TOKEN": SECRET}
        with open_store(chosen, root=tmp_path, feeder_ids=["feeder75a"], environ=environ) as store:
            assert SECRET not in store.description

    fuzz(urls, check, 80)


def said(url, root, environ) -> str:
    """Return all that opening a store says: its description, or the error and its cause."""
    try:
        with open_store(url, root=root, environ=environ) as store:
            return store.description
    except FeederError as error:
        return f"{error} {error.__cause__!r}"


def test_secret_in_any_place_of_a_store_url_is_never_shown(fuzz, tmp_path):
    """As password, as a query's value, as a token pasted in a URL that is refused."""

    def check(url):
        assert SECRET not in masked_store_url(url)
        text = said(url, tmp_path, {"FEEDER_STORE_TOKEN": "t"})
        assert SECRET not in text

    kinds = st.sampled_from(KNOWN_KINDS[1:])
    hosts = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=5)
    names = st.sampled_from(("token", "password", "sslpassword", "Token", "x"))
    with_password = st.builds("{}://{}:{}@{}/db?org=A".format, kinds, hosts, st.just(SECRET), hosts)
    with_query = st.builds("{}://{}/db?{}={}&org=A".format, kinds, hosts, names, st.just(SECRET))
    fuzz(with_password | with_query, check, 25)


def test_token_file_of_any_bytes_is_a_token_or_our_error(fuzz, tmp_path_factory):
    """Whatever the file holds, no message repeats it."""
    path: Path = tmp_path_factory.mktemp("elsewhere") / "token"
    environ = {"FEEDER_STORE_TOKEN_FILE": str(path)}

    def check(content):
        path.write_bytes(content + SECRET.encode())
        text = said("influxdb+http://h?org=A", path.parent, environ)
        assert SECRET not in text

    fuzz(st.binary(max_size=12), check, 25)
