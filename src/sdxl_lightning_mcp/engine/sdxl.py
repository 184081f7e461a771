"""SDXL as three acts: encode the prompts, denoise, decode (Podell et al., arXiv 2307.01952)."""

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from sdxl_lightning_mcp.catalogue import Checkpoint
from sdxl_lightning_mcp.engine.sampling import (
    PredictionType,
    Schedule,
    euler_step,
    gaussian_noise,
    scale_input,
    trailing_schedule,
)
from sdxl_lightning_mcp.engine.tuning import Tuning
from sdxl_lightning_mcp.engine.weights import Networks, open_networks
from sdxl_lightning_mcp.errors import RunFailedError
from sdxl_lightning_mcp.request import Parameters

TOKENS = 77


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told about one picture.

    `tokens`: (1, 77, width of both text encoders). `pooled`: (1, width of the second's
    projection). `sizes`: (1, 6), SDXL's micro-conditioning.
    """

    tokens: Tensor
    pooled: Tensor
    sizes: Tensor


@dataclass(eq=False)
class Sample:
    """One picture between noise and image.

    `latents`: (1, channels, h, w), float32, at noise level `schedule.sigmas[step]`.
    `negative` is only there where guidance asks for a second branch.
    """

    run_id: str
    parameters: Parameters
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
    def batch_key(self) -> tuple[int, ...]:
        """Samples with the same key can share a UNet call."""
        return tuple(self.latents.shape)


class Sdxl:
    """A checkpoint of SDXL's architecture on one device."""

    def __init__(self, networks: Networks, prediction_type: PredictionType, tuning: Tuning):
        self.networks = networks
        self.prediction_type: PredictionType = prediction_type
        self.tuning = tuning
        self.latent_scale = 2 ** (len(_config(networks.vae).block_out_channels) - 1)

    @classmethod
    def open(cls, checkpoint: Checkpoint, tuning: Tuning) -> "Sdxl":
        """Opens a verified checkpoint. Raises WeightsError."""
        return cls(open_networks(checkpoint, tuning), checkpoint.prediction_type, tuning)

    @torch.inference_mode()
    def prepare(self, run_id: str, parameters: Parameters) -> Sample:
        """Encodes the prompts and draws the noise: everything before the first step."""
        scale = self.latent_scale
        shape = (-(-parameters.height // scale), -(-parameters.width // scale))
        channels = _config(self.networks.unet).in_channels
        schedule = trailing_schedule(parameters.steps)
        noise = gaussian_noise(parameters.seed, (1, channels, *shape))
        positive, lost = self._encode(parameters.prompt, parameters)
        notes = _lost_note("prompt", lost)
        negative = None
        if parameters.guidance > 1:
            negative, lost = self._encode_negative(positive, parameters)
            notes += _lost_note("negative prompt", lost)
        if (shape[0] * scale, shape[1] * scale) != (parameters.height, parameters.width):
            notes.append(f"Drawn at {shape[1] * scale}x{shape[0] * scale} and cut to size.")
        return Sample(
            run_id,
            parameters,
            positive,
            negative,
            (noise * schedule.sigmas[0]).to(self.tuning.device),
            schedule,
            notes=notes,
        )

    @torch.inference_mode()
    def denoise(self, samples: list[Sample]) -> None:
        """Moves every sample one step on, in one UNet call.

        The samples have latents of one shape; each stands at its own timestep and may or may not
        have a guidance branch. The negative branches come first in the batch, as in diffusers.
        """
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
            self.prediction_type,
        )
        for row, sample in enumerate(samples):
            sample.latents = stepped[row : row + 1]
            sample.step += 1

    @torch.inference_mode()
    def decode(self, sample: Sample) -> Image.Image:
        """Decodes denoised latents into an RGB picture of the size asked for.

        Raises:
            RunFailedError: The networks brought forth no numbers.
        """
        vae: Any = self.networks.vae
        latents = (sample.latents / vae.config.scaling_factor).to(self.tuning.dtype)
        pixels = vae.decode(latents, return_dict=False)[0][0].float()
        if not bool(torch.isfinite(pixels).all()):
            raise RunFailedError("The picture came out as not-a-number; try another data type.")
        levels = (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        picture = Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy(), "RGB")
        width, height = sample.parameters.width, sample.parameters.height
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        return picture.crop((left, top, left + width, top + height))

    def _call_unet(self, rows: list[Sample], told: list[Conditioning]) -> Tensor:
        """The UNet's predictions in float32, one for each row."""
        latents = torch.cat([sample.latents for sample in rows])
        timesteps = torch.stack([sample.schedule.timesteps[sample.step] for sample in rows])
        unet: Any = self.networks.unet
        return unet(
            scale_input(latents, self._levels(rows, 0)).to(
                self.tuning.dtype, memory_format=self.tuning.memory_format
            ),
            timesteps.to(self.tuning.device),
            encoder_hidden_states=torch.cat([one.tokens for one in told]),
            added_cond_kwargs={
                "text_embeds": torch.cat([one.pooled for one in told]),
                "time_ids": torch.cat([one.sizes for one in told]),
            },
            return_dict=False,
        )[0].float()

    def _levels(self, samples: list[Sample], ahead: int) -> Tensor:
        """The samples' noise levels now or after the next step, (B, 1, 1, 1)."""
        levels = torch.stack([sample.schedule.sigmas[sample.step + ahead] for sample in samples])
        return levels.to(self.tuning.device).view(-1, 1, 1, 1)

    def _encode(self, text: str, parameters: Parameters) -> tuple[Conditioning, str]:
        """Encodes one prompt; also returns the words that did not fit."""
        hidden: list[Tensor] = []
        pooled = lost = None
        for tokenizer, encoder in zip(
            self.networks.tokenizers, self.networks.text_encoders, strict=True
        ):
            ids, lost = _tokenize(tokenizer, text)
            output: Any = encoder(ids.to(self.tuning.device), output_hidden_states=True)
            # SDXL reads the last layer but one, and the second encoder's pooled projection.
            hidden.append(output.hidden_states[-2])
            pooled = output[0]
        height, width = parameters.height, parameters.width
        sizes = torch.tensor(
            [[height, width, 0, 0, height, width]], dtype=hidden[0].dtype, device=hidden[0].device
        )
        return Conditioning(torch.cat(hidden, dim=-1), cast(Tensor, pooled), sizes), lost or ""

    def _encode_negative(
        self, positive: Conditioning, parameters: Parameters
    ) -> tuple[Conditioning, str]:
        if parameters.negative_prompt:
            return self._encode(parameters.negative_prompt, parameters)
        # SDXL was trained with zeros, not with the encoding of an empty text.
        nothing = Conditioning(
            torch.zeros_like(positive.tokens), torch.zeros_like(positive.pooled), positive.sizes
        )
        return nothing, ""


def _tokenize(tokenizer: Any, text: str) -> tuple[Tensor, str]:
    """Token ids (1, 77), and the words beyond them."""
    # A "<|endoftext|>" that a person types is text, not the end of their prompt.
    ids: list[int] = tokenizer(text, split_special_tokens=True).input_ids
    lost = ""
    if len(ids) > TOKENS:
        lost = tokenizer.decode(ids[TOKENS - 1 : -1]).strip()
        ids = [*ids[: TOKENS - 1], ids[-1]]
    padding = [tokenizer.pad_token_id] * (TOKENS - len(ids))
    return torch.tensor([ids + padding]), lost


def _lost_note(what: str, lost: str) -> list[str]:
    if not lost:
        return []
    shown = lost if len(lost) <= 200 else f"{lost[:200]}... ({len(lost):,} characters)"
    return [f'The {what} was cut after {TOKENS} tokens; not read: "{shown}"']


def _config(network: Any) -> Any:
    return network.config
