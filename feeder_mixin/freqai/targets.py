"""What a FreqAI strategy predicts and what each target's model learns; and the identity of both.

Bot and tuner ask here. What must stay true: a record that was won on other features or targets is told by
its hashes, in whatever order a config names the targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from feeder_mixin.errors import SettingsError
from feeder_mixin.schema import hash48

_ABSENT: Final = "-"


@dataclass(frozen=True, slots=True)
class Target:
    """One target of a strategy, as ``feeder.freqai_targets`` has it.

    Attributes
    ----------
    name
        The column, for example ``&-min_low``.
    quantile
        Level of the quantile that its model learns; None: the mean, by the squared error.
    """

    name: str
    quantile: float | None = None

    @property
    def objective(self) -> dict[str, object]:
        """Return what LightGBM is told to learn; empty where the config's own parameters decide."""
        return {} if self.quantile is None else {"objective": "quantile", "alpha": self.quantile}

    def __str__(self) -> str:
        return f"{self.name}={_ABSENT if self.quantile is None else f'{self.quantile:g}'}"


def match_targets(
    configured: Sequence[Target], columns: Sequence[str], strategy: str
) -> tuple[Target, ...]:
    """Return the targets of a strategy's columns, in their order.

    Parameters
    ----------
    configured
        Those of ``feeder.freqai_targets``; without any, every target is learned by its squared error.
    columns
        The columns that ``set_freqai_targets`` has made.

    Raises
    ------
    SettingsError
        When the strategy makes no target, or the config names other targets than it makes.
    """
    if not columns:
        raise SettingsError(
            f"{strategy}: set_freqai_targets makes no column whose name begins with '&', so there is nothing "
            "to predict: add it to the strategy"
        )
    if not configured:
        return tuple(Target(name) for name in columns)
    by_name = {target.name: target for target in configured}
    wrong = [name for name in by_name if name not in columns]
    left_out = [name for name in columns if name not in by_name]
    if wrong or left_out:
        parts = [f"names {', '.join(wrong)}, which {strategy} does not make"] if wrong else []
        parts += [f"does not name {', '.join(left_out)}"] if left_out else []
        raise SettingsError(
            f"feeder.freqai_targets {' and '.join(parts)}: expected exactly the targets of {strategy}, "
            f"{', '.join(columns)}"
        )
    return tuple(by_name[name] for name in columns)


def feature_hash(names: Sequence[str]) -> int:
    """Return the identity of a pair's features: their names, in FreqAI's order."""
    return hash48(*names)


def target_hash(targets: Sequence[Target]) -> int:
    """Return the identity of targets and their levels, in whatever order.

    Examples
    --------
    >>> target_hash([Target("&-a", 0.1), Target("&-b")]) == target_hash([Target("&-b"), Target("&-a", 0.1)])
    True
    """
    return hash48(*sorted(map(str, targets)))


@dataclass(frozen=True, slots=True)
class TunedOn:
    """What a pair's model is trained on, as a record names it."""

    feature_hash: int
    target_hash: int

    @classmethod
    def of(cls, features: Sequence[str], targets: Sequence[Target]) -> TunedOn:
        """Return the identity of features and targets."""
        return cls(feature_hash(features), target_hash(targets))

    @property
    def metrics(self) -> Mapping[str, float]:
        """Return both as a record carries them."""
        return {"feature_hash": float(self.feature_hash), "target_hash": float(self.target_hash)}

    def refusal(self, pair: str, hashes: Mapping[str, float]) -> str | None:
        """Return why a record of these hashes can't serve a pair here; one without hashes can."""
        for name, what in (("feature_hash", "features"), ("target_hash", "targets")):
            stored, here = hashes.get(name), self.metrics[name]
            if stored is not None and stored != here:
                return (
                    f"{pair}: tuned on other {what} than the strategy has now "
                    f"({name}={stored:.0f}, here {here:.0f}): tune again"
                )
        return None
