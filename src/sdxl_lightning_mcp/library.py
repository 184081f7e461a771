"""The engine in this process: load a model by name, call it with a prompt, save the picture."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.environment import load_settings, visible_gpus
from sdxl_lightning_mcp.hub import Transfer, fetch, verify
from sdxl_lightning_mcp.ids import new_run_id
from sdxl_lightning_mcp.image import GeneratedImage
from sdxl_lightning_mcp.request import read_request, resolve
from sdxl_lightning_mcp.run import Failed, Finished
from sdxl_lightning_mcp.selection import on_disk, select
from sdxl_lightning_mcp.settings import Speed

if TYPE_CHECKING:
    from sdxl_lightning_mcp.engine.engine import Engine


class LoadedModel:
    """A model whose weights are open: `model("a prompt", seed=7)` is a picture."""

    def __init__(self, model: Model, engine: "Engine") -> None:
        self.model = model
        self.engine = engine

    def __call__(self, prompt: str, **fields: Any) -> GeneratedImage:
        """Makes one picture.

        Args:
            prompt: What to draw.
            **fields: The other fields of `GenerationRequest`: negative_prompt, seed, width,
                height, guidance, steps.

        Returns:
            The picture; its `notes` say what was done otherwise than asked.

        Raises:
            InvalidRequestError: A field cannot be met; the text says what can.
            RunFailedError: The device did not bring forth a picture.
        """
        request = read_request({"prompt": prompt, **fields}, self.model)
        parameters, notes = resolve(request, on_disk(self.model))
        run_id = new_run_id()
        self.engine.submit(run_id, parameters)
        try:
            while True:
                for event in self.engine.turn():
                    if isinstance(event, Finished) and event.run_id == run_id:
                        notes = (*notes, *event.image.notes)
                        return replace(event.image, notes=notes)
                    if isinstance(event, Failed) and event.run_id == run_id:
                        raise event.error
        finally:
            # Interrupted, say by Ctrl-C in a notebook, it must not be there for the next call.
            for _ in self.engine.cancel(run_id):
                pass


def load(
    model: str = "auto",
    *,
    loras: Sequence[str] = (),
    vae: str = "default",
    speed: str = "normal",
    device: str = "auto",
    tell: Callable[[Transfer], None] = lambda transfer: None,
) -> LoadedModel:
    """Opens a model's weights in this process; takes some seconds, since torch is imported.

    What is not on this disk is fetched first.

    Args:
        model: auto, a name of the catalogue, a folder in diffusers' layout, a .safetensors file.
        loras: Files or names of LoRAs to add, each with `:scale` behind it if that is not 1.
        vae: default, or tiny for TAESDXL.
        speed: exact, normal, fast or draft, as --speed.
        device: auto, cuda, cuda:1, mps or cpu, as torch numbers them.
        tell: Is told how far fetching and checking are.

    Raises:
        UnknownModelError: No model has that name, and no file is there.
        WeightsError: Its files cannot be got, are not right, or are not SDXL's.
        DeviceMemoryError: The device has too little memory.
        SettingsError: That device is not here, or the parts do not go together.
    """
    settings = load_settings({}, speed=speed)
    vae = "tiny" if settings.speed is Speed.DRAFT else vae
    found = select(model, loras, vae, device, visible_gpus())
    files = found.checkpoint.all_files
    fetch(files, tell, found.selector)
    verify(files, tell, found.selector)
    from sdxl_lightning_mcp.engine.engine import Engine
    from sdxl_lightning_mcp.engine.sdxl import Sdxl
    from sdxl_lightning_mcp.engine.tuning import tune

    sdxl = Sdxl.open(found.checkpoint, tune(device, settings.speed), found.checkpoints)
    return LoadedModel(found, Engine(sdxl))
