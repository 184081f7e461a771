"""SDXL as three acts: encode the prompts, denoise, decode (Podell et al., arXiv 2307.01952)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from sdxl_lightning_mcp.checkpoint import Checkpoint
from sdxl_lightning_mcp.engine.acceleration.attention import context
from sdxl_lightning_mcp.engine.holding import Holding
from sdxl_lightning_mcp.engine.memory import release_memory
from sdxl_lightning_mcp.engine.prompts import CHUNK
from sdxl_lightning_mcp.engine.sampling import (
    Schedule,
    euler_step,
    gaussian_noise,
    make_schedule,
    scale_input,
)
from sdxl_lightning_mcp.engine.tuning import Tuning
from sdxl_lightning_mcp.errors import RunFailedError
from sdxl_lightning_mcp.request import Parameters

# With fewer parameters a picture takes seconds on any processor.
LARGE = 500_000_000


@dataclass(eq=False)
class Conditioning:
    """What the UNet is told about one picture.

    `tokens`: (1, 77 x chunks, width of both text encoders). `pooled`: (1, width of the second's
    projection). `sizes`: (1, 6), SDXL's micro-conditioning. `context` is what the UNet makes of
    the tokens, once it was asked: the same for every step.
    """

    tokens: Tensor
    pooled: Tensor
    sizes: Tensor
    context: Tensor | None = None


@dataclass(eq=False)
class Sample:
    """One picture between noise and image.

    `latents`: (1, channels, h, w), float32, at noise level `schedule.sigmas[step]`.
    `negative` is only there where guidance asks for a second branch.
    """

    run_id: str
    parameters: Parameters
    checkpoint: Checkpoint
    positive: Conditioning
    negative: Conditioning | None
    latents: Tensor
    schedule: Schedule
    step: int = 0
    notes: list[str] = field(default_factory=list[str])

    @property
    def denoised(self) -> bool:
        """Whether the last step is done."""
        return self.step == self.parameters.steps

    @property
    def batch_key(self) -> tuple[object, ...]:
        """Samples with the same key can share a UNet call."""
        return (self.checkpoint.name, self.positive.tokens.shape[1], *self.latents.shape)


class Sdxl:
    """A model of SDXL's architecture on one device.

    `held` are its networks. `checkpoints` are those it can work with; they differ in their UNet
    alone, and one UNet is held at a time.
    """

    def __init__(self, held: Holding, checkpoints: Sequence[Checkpoint]) -> None:
        self.held = held
        self.checkpoints = {checkpoint.name: checkpoint for checkpoint in checkpoints}
        vae, unet = _config(held.networks.vae), _config(held.networks.unet)
        levels = vae.get("block_out_channels") or vae.encoder_block_out_channels
        self.latent_scale = 2 ** (len(levels) - 1)
        self.channels: int = unet.in_channels
        self._large = held.networks.unet.num_parameters() > LARGE

    @classmethod
    def open(
        cls, checkpoint: Checkpoint, tuning: Tuning, others: Sequence[Checkpoint] = ()
    ) -> "Sdxl":
        """Opens verified files; what lies on the device follows from its free memory.

        Raises:
            WeightsError: A file cannot be opened or does not fit.
            DeviceMemoryError: The device has too little memory.
        """
        rest = (one for one in others if one != checkpoint)
        return cls(Holding.open(checkpoint, tuning), [checkpoint, *rest])

    @property
    def tuning(self) -> Tuning:
        """Where and how the networks lie."""
        return self.held.tuning

    @property
    def takes_minutes(self) -> bool:
        """Whether a picture may take so long that it should be said before."""
        return self.tuning.device.type == "cpu" and self._large

    def release_memory(self) -> None:
        """Gives back what torch keeps of the device's memory for later."""
        release_memory(self.tuning.device)

    # --- the three acts --------------------------------------------------------------------

    @torch.inference_mode()
    def prepare(self, run_id: str, parameters: Parameters) -> Sample:
        """Encodes the prompts and draws the noise: everything before the first step."""
        checkpoint = self.checkpoints[parameters.checkpoint]
        scale = self.latent_scale
        shape = (-(-parameters.height // scale), -(-parameters.width // scale))
        schedule = make_schedule(parameters.steps, checkpoint.spacing)
        noise = gaussian_noise(parameters.seed, (1, self.channels, *shape))
        positive, negative, notes = self._encode(parameters, checkpoint)
        if (shape[0] * scale, shape[1] * scale) != (parameters.height, parameters.width):
            notes.append(f"Drawn at {shape[1] * scale}x{shape[0] * scale} and cut to size.")
        return Sample(
            run_id,
            parameters,
            checkpoint,
            positive,
            negative,
            (noise * schedule.start).to(self.tuning.device),
            schedule,
            notes=notes,
        )

    @torch.inference_mode()
    def denoise(self, samples: list[Sample]) -> None:
        """Moves every sample one step on, in one UNet call.

        The samples have one `batch_key`; each stands at its own timestep and may or may not
        have a guidance branch. The negative branches come first in the batch, as in diffusers.
        """
        self.held.take_up(samples[0].checkpoint)
        guided = [sample for sample in samples if sample.negative is not None]
        rows = [*guided, *samples]
        told = [cast(Conditioning, sample.negative) for sample in guided]
        told += [sample.positive for sample in samples]
        output = self._call_unet(rows, told)
        negatives = dict(zip(map(id, guided), output[: len(guided)], strict=True))
        guided_output = torch.stack(
            [
                positive
                if sample.negative is None
                else negatives[id(sample)]
                + sample.parameters.guidance * (positive - negatives[id(sample)])
                for sample, positive in zip(samples, output[len(guided) :], strict=True)
            ]
        )
        stepped = euler_step(
            torch.cat([sample.latents for sample in samples]),
            guided_output,
            self._levels(samples, 0),
            self._levels(samples, 1),
            samples[0].checkpoint.prediction_type,
        )
        for row, sample in enumerate(samples):
            sample.latents = stepped[row : row + 1]
            sample.step += 1
        if self.tuning.device.type == "cuda":
            # A step that is told must be done, and is measured.
            torch.cuda.synchronize(self.tuning.device)

    @torch.inference_mode()
    def decode(self, sample: Sample) -> Image.Image:
        """Decodes denoised latents into an RGB picture of the size asked for.

        Raises:
            RunFailedError: The networks brought forth no numbers, or nothing but black.
        """
        vae: Any = self.held.networks.vae
        latents = (sample.latents / vae.config.scaling_factor).to(vae.dtype)
        levels, total = self.held.execution.decode(latents)
        if not bool(torch.isfinite(total)):
            raise RunFailedError(
                "The picture came out as not-a-number; the weights do not suit this data type "
                f"({vae.dtype}) or are broken."
            )
        if not bool(levels.any()):
            raise RunFailedError("The picture came out all black; it is not kept.")
        picture = Image.fromarray(levels.cpu().numpy(), "RGB")
        width, height = sample.parameters.width, sample.parameters.height
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        return picture.crop((left, top, left + width, top + height))

    # --- one UNet call ---------------------------------------------------------------------

    def _call_unet(self, rows: list[Sample], told: list[Conditioning]) -> Tensor:
        """The UNet's predictions in float32, one for each row."""
        latents = torch.cat([sample.latents for sample in rows])
        timesteps = torch.stack([sample.schedule.timesteps[sample.step] for sample in rows])
        contexts: list[Tensor] = []
        for one in told:
            if one.context is None:
                one.context = context(self.held.networks.unet, one.tokens)
            contexts.append(one.context)
        return self.held.execution.unet(
            scale_input(latents, self._levels(rows, 0)).to(
                self.tuning.dtype, memory_format=self.tuning.memory_format
            ),
            timesteps.to(self.tuning.device),
            torch.cat(contexts),
            torch.cat([one.pooled for one in told]),
            torch.cat([one.sizes for one in told]),
        ).float()

    def _levels(self, samples: list[Sample], ahead: int) -> Tensor:
        """The samples' noise levels now or after the next step, (B, 1, 1, 1)."""
        levels = torch.stack([sample.schedule.sigmas[sample.step + ahead] for sample in samples])
        return levels.to(self.tuning.device).view(-1, 1, 1, 1)

    def _encode(
        self, parameters: Parameters, checkpoint: Checkpoint
    ) -> tuple[Conditioning, Conditioning | None, list[str]]:
        """What the UNet is told, where guidance asks for it also of what is not wanted."""
        encoder = self.held.prompts
        wanted = encoder.encode(parameters.prompt)
        notes = _lost_note("prompt", wanted.lost, checkpoint.prompt_chunks)
        height, width = parameters.height, parameters.width
        sizes = torch.tensor(
            [[height, width, 0, 0, height, width]],
            dtype=wanted.tokens.dtype,
            device=wanted.tokens.device,
        )
        positive = Conditioning(wanted.tokens, wanted.pooled, sizes)
        if parameters.guidance <= 1:
            return positive, None, notes
        if not parameters.negative_prompt:
            # SDXL was trained with zeros, not with the encoding of an empty text.
            zeros = torch.zeros_like
            return positive, Conditioning(zeros(wanted.tokens), zeros(wanted.pooled), sizes), notes
        unwanted = encoder.encode(parameters.negative_prompt)
        notes += _lost_note("negative prompt", unwanted.lost, checkpoint.prompt_chunks)
        # The two share a call, so that they need one length.
        length = max(wanted.tokens.shape[1], unwanted.tokens.shape[1])
        positive = replace(positive, tokens=encoder.lengthened(wanted.tokens, length))
        tokens = encoder.lengthened(unwanted.tokens, length)
        return positive, Conditioning(tokens, unwanted.pooled, sizes), notes


def _lost_note(what: str, lost: str, chunks: int) -> list[str]:
    if not lost:
        return []
    shown = lost if len(lost) <= 200 else f"{lost[:200]}... ({len(lost):,} characters)"
    return [f'The {what} was cut after {CHUNK * chunks} tokens; not read: "{shown}"']


def _config(network: Any) -> Any:
    return network.config
