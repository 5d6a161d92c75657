"""FreqAI's LightGBM regressor with parameters from the store: `feeder_mixin.freqai.model` has it all."""

from feeder_mixin.freqai import model


class OptunaLightGBMRegressor(model.OptunaLightGBMRegressor):
    """One LightGBM regressor a target, with the pair's own parameters."""
