"""What is changed in networks once they have their weights, so that they compute faster."""

from sdxl_lightning_mcp.engine.acceleration.attention import rewire
from sdxl_lightning_mcp.engine.acceleration.float8 import round_linears
from sdxl_lightning_mcp.engine.memory import Tier
from sdxl_lightning_mcp.engine.tuning import Tuning
from sdxl_lightning_mcp.engine.weights import Networks


def make_ready(networks: Networks, tuning: Tuning) -> Networks:
    """Changes the UNet in place; also one that has no weights yet (on the meta device).

    One that is streamed stays as its file is: its hooks know its layers.
    """
    if tuning.tier < Tier.STREAMED:
        rewire(networks.unet)
        if tuning.float8:
            round_linears(networks.unet)
    return networks
