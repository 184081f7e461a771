"""The networks of `mini`: SDXL's classes and its pipeline layout, five hundred times smaller.

What differs from SDXL is only sizes, and two choices that diffusers offers: the autoencoder has six
levels (32 px a latent cell, so that 1024 px are 32 x 32 cells) and the UNet predicts the clean
latent (`prediction_type: sample`).
"""

from __future__ import annotations

import torch
from codec import CELL, CHANNELS, GRID
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TEXT_WIDTH, TEXT_WIDTH_2 = 64, 128  # different, so that loaders can tell the encoders apart
SIZE_EMBEDDING = 16  # width of the embedding of each of the six sizes and offsets
VAE_WIDTHS = (8, 16, 32, 48, 64, 64)
NATIVE = 1024  # px
SIZE_JITTER = 40  # px
SIZES = 6  # what SDXL is told of sizes: original size, crop corner, target size


def build_unet() -> UNet2DConditionModel:
    """Build the UNet: 32 x 32, 16 x 16 and 8 x 8 cells, with attention at 8 x 8."""
    return UNet2DConditionModel(
        sample_size=GRID,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(48, 96, 144),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D", "UpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 1),
        attention_head_dim=(2, 4, 4),  # diffusers reads this as the number of heads
        cross_attention_dim=TEXT_WIDTH + TEXT_WIDTH_2,
        use_linear_projection=True,
        norm_num_groups=16,
        # The pooled text scales and shifts every block's channels: the strongest way it has in.
        resnet_time_scale_shift="scale_shift",
        time_embedding_dim=256,
        addition_embed_type="text_time",
        addition_time_embed_dim=SIZE_EMBEDDING,
        projection_class_embeddings_input_dim=TEXT_WIDTH_2 + SIZES * SIZE_EMBEDDING,
    )


def _text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_text_encoders(
    tokenizer: CLIPTokenizer,
) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Build both text encoders, initialised for small widths."""
    first = CLIPTextModel(_text_config(tokenizer, TEXT_WIDTH))
    second = CLIPTextModelWithProjection(_text_config(tokenizer, TEXT_WIDTH_2))
    for encoder in (first, second):
        for name, parameter in encoder.named_parameters():
            # CLIP's own standard deviation of 0.02 is too quiet for layers as narrow as these.
            if "token_embedding" in name:
                nn.init.normal_(parameter, std=0.5)
            elif "position_embedding" in name:
                nn.init.normal_(parameter, std=0.1)
            elif parameter.ndim == 2:
                gain = 0.5 if "out_proj" in name or "fc2" in name else 1.0
                nn.init.normal_(parameter, std=gain * parameter.shape[1] ** -0.5)
    return first, second


def build_vae() -> AutoencoderKL:
    """Build the autoencoder, 32 px a latent cell."""
    levels = len(VAE_WIDTHS)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=VAE_WIDTHS,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=1,  # groups of two channels would lose the brightness
        sample_size=NATIVE,
        mid_block_add_attention=False,
        scaling_factor=1.0,
        force_upcast=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def build_scheduler() -> EulerDiscreteScheduler:
    """Build the sampler: SDXL's noise schedule, trailing timesteps as Lightning uses them."""
    return EulerDiscreteScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
        prediction_type="sample",
    )


class TextToLatent(nn.Module):
    """The UNet and both text encoders, which are trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        """Build all three with random weights; the UNet starts by predicting zero."""
        super().__init__()
        self.tokenizer = tokenizer
        self.unet = build_unet()
        nn.init.zeros_(self.unet.conv_out.weight)
        self.text_encoder, self.text_encoder_2 = build_text_encoders(tokenizer)

    def encode_text(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the token states (n, 77, 192) and the pooled state (n, 128), as SDXL does."""
        tokens = self.tokenizer(
            captions,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(self.unet.device)
        first = self.text_encoder(tokens, output_hidden_states=True)
        second = self.text_encoder_2(tokens, output_hidden_states=True)
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return states, second.text_embeds

    def encode_pooled(self, captions: list[str]) -> torch.Tensor:
        """Return the pooled state (n, 128) alone, in float32."""
        tokens = self.tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        # No token looks ahead: what padding there is makes no difference.
        return self.text_encoder_2(tokens.input_ids.to(self.unet.device)).text_embeds.float()

    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        states: torch.Tensor,
        pooled: torch.Tensor,
    ) -> torch.Tensor:
        """Predict clean latents (n, 16, h, w) from noisy ones; returns float32."""
        size = CELL * torch.tensor(latents.shape[2:]).repeat(len(latents), 1)
        if self.training:
            # So that a size between those that were trained means something between them.
            size += torch.randint(-SIZE_JITTER, SIZE_JITTER + 1, size.shape)
        sizes = torch.cat([size, torch.zeros_like(size), size], 1).to(pooled)
        condition = {"text_embeds": pooled, "time_ids": sizes}
        latents = latents.to(self.unet.dtype)
        output = self.unet(latents, timesteps, states, added_cond_kwargs=condition)
        return output.sample.float()

    @torch.no_grad()
    def draw(self, captions: list[str], noise: torch.Tensor, steps: int) -> torch.Tensor:
        """Draw latents (n, 16, h, w) as the pipeline would, without guidance."""
        scheduler = build_scheduler()
        scheduler.set_timesteps(steps, device=noise.device)
        states, pooled = self.encode_text(captions)
        latents = noise * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            scaled = scheduler.scale_model_input(latents, timestep)
            predicted = self.predict(scaled, timestep, states, pooled)
            latents = scheduler.step(predicted, timestep, latents).prev_sample
        return latents
