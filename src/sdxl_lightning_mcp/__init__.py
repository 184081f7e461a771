"""Pictures for agents: SDXL-Lightning's architecture on your own machine.

The library is three lines, and the command line is its twin:

    import sdxl_lightning_mcp as sdxl
    mini = sdxl.load("mini")
    mini("the sea at sunset with a sailboat", seed=7).save("sailboat.jpg")

Importing this brings pydantic and Pillow, nothing heavier; torch comes with the first `load`.
"""

from sdxl_lightning_mcp.catalogue import CATALOGUE
from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.errors import (
    InvalidRequestError,
    QueueFullError,
    RunCanceledError,
    RunFailedError,
    SdxlLightningError,
    SettingsError,
    StorageError,
    UnknownModelError,
    WeightsError,
)
from sdxl_lightning_mcp.image import GeneratedImage, read_parameters
from sdxl_lightning_mcp.library import LoadedModel, load
from sdxl_lightning_mcp.request import GenerationRequest, Parameters

__version__ = "0.1.0"

__all__ = [
    "CATALOGUE",
    "GeneratedImage",
    "GenerationRequest",
    "InvalidRequestError",
    "LoadedModel",
    "Model",
    "Parameters",
    "QueueFullError",
    "RunCanceledError",
    "RunFailedError",
    "SdxlLightningError",
    "SettingsError",
    "StorageError",
    "UnknownModelError",
    "WeightsError",
    "load",
    "read_parameters",
]
