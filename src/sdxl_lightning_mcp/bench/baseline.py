"""The plain way to the same picture: diffusers' own pipeline on the same weights."""

from typing import Any

import anyio
import anyio.to_thread

from sdxl_lightning_mcp.bench.asking import Draw
from sdxl_lightning_mcp.bench.plan import Plan
from sdxl_lightning_mcp.bench.ways import prepare_memory
from sdxl_lightning_mcp.checkpoint import Model


def open_pipeline(model: Model, device: str, dtype: str) -> Any:
    """StableDiffusionXLPipeline as its documentation builds it, with nothing tuned.

    Args:
        model: Whose default checkpoint it has.
        device: auto, cuda, mps or cpu.
        dtype: torch's name of the data type of all its networks.

    Raises:
        WeightsError: A file cannot be opened.
    """
    import torch
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
        StableDiffusionXLPipeline,
    )
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

    from sdxl_lightning_mcp.engine.tuning import Tuning, tune
    from sdxl_lightning_mcp.engine.weights import build_networks, fill_networks

    prepare_memory(device)
    checkpoint = model.checkpoint
    networks: Any = build_networks(checkpoint)
    plain = Tuning(tune(device).device, getattr(torch, dtype), torch.contiguous_format)
    fill_networks(networks, checkpoint, plain)
    # The pipeline itself knows which VAEs must not be called in float16, and how it helps itself.
    networks.vae.to(plain.dtype)
    scheduler: Any = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=checkpoint.prediction_type,
        timestep_spacing=checkpoint.spacing,
        steps_offset=1,
    )
    pipeline: Any = StableDiffusionXLPipeline(
        vae=networks.vae,
        text_encoder=networks.text_encoders[0],
        text_encoder_2=networks.text_encoders[1],
        tokenizer=networks.tokenizers[0],
        tokenizer_2=networks.tokenizers[1],
        unet=networks.unet,
        scheduler=scheduler,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def call_pipeline(pipeline: Any, model: Model, plan: Plan, number: int) -> Any:
    """The picture of that number, as the pipeline's documentation asks for it; no JPEG is made."""
    import torch

    wish = plan.parameters(number, model)
    return pipeline(
        wish.prompt,
        width=wish.width,
        height=wish.height,
        num_inference_steps=wish.steps,
        guidance_scale=wish.guidance,
        generator=torch.Generator("cpu").manual_seed(wish.seed),
    ).images[0]


def by_pipeline(pipeline: Any, model: Model, plan: Plan) -> Draw:
    """Draws in the calling thread, one caller at a time."""

    async def draw(number: int) -> None:
        call_pipeline(pipeline, model, plan, number)

    return draw


def by_locked_pipeline(pipeline: Any, model: Model, plan: Plan) -> Draw:
    """Draws as servers do that wrap a pipeline: it is not thread-safe, so callers wait in line."""
    lock = anyio.Lock()

    async def draw(number: int) -> None:
        async with lock:
            await anyio.to_thread.run_sync(call_pipeline, pipeline, model, plan, number)

    return draw
