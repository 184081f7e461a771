"""The engine in this process: load a model by name, call it with a prompt, save the picture."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sdxl_lightning_mcp.catalogue import Model, find
from sdxl_lightning_mcp.image import GeneratedImage
from sdxl_lightning_mcp.request import read_request, resolve
from sdxl_lightning_mcp.run import Failed, Finished, new_run_id

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
        parameters, notes = resolve(request, self.model)
        run_id = new_run_id()
        self.engine.submit(run_id, parameters)
        try:
            while True:
                for event in self.engine.turn():
                    if isinstance(event, Finished) and event.run_id == run_id:
                        return replace(event.image, notes=(*notes, *event.image.notes))
                    if isinstance(event, Failed) and event.run_id == run_id:
                        raise event.error
        finally:
            # Interrupted, say by Ctrl-C in a notebook, it must not be there for the next call.
            for _ in self.engine.cancel(run_id):
                pass


def load(model: str = "mini", *, device: str = "auto") -> LoadedModel:
    """Opens a model's weights in this process; takes some seconds, since torch is imported.

    Args:
        model: A name of the catalogue.
        device: auto, cuda, mps or cpu.

    Raises:
        UnknownModelError: No model has that name.
        WeightsError: Its files are not here or not right.
        SettingsError: That device is not here.
    """
    found = find(model)
    from sdxl_lightning_mcp.engine.engine import Engine
    from sdxl_lightning_mcp.engine.sdxl import Sdxl
    from sdxl_lightning_mcp.engine.tuning import tune
    from sdxl_lightning_mcp.engine.weights import verify

    for _ in verify(found.checkpoint):
        pass
    return LoadedModel(found, Engine(Sdxl.open(found.checkpoint, tune(device))))
