"""SDXL's parts at any width: their configuration files, and their weights' names and shapes."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

Json = dict[str, Any]
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Text:
    """The widths of a CLIP text encoder."""

    hidden: int
    heads: int
    intermediate: int


@dataclass(frozen=True)
class Scale:
    """The widths of SDXL; its depth, and so every weight's name, is the same at each scale."""

    unet: tuple[int, int, int]
    heads: tuple[int, int, int]
    time_id: int
    vae: tuple[int, int, int, int]
    tiny: int
    text: Text
    text_2: Text


REAL = Scale(
    unet=(320, 640, 1280),
    heads=(5, 10, 20),
    time_id=256,
    vae=(128, 256, 512, 512),
    tiny=64,
    text=Text(768, 12, 3072),
    text_2=Text(1280, 20, 5120),
)
# Multiples of 32 for the group norms. The VAE's widths change where the real ones do, and the
# encoders' differ: diffusers tells the encoders apart by width.
SMALL = Scale(
    unet=(32, 64, 96),
    heads=(1, 2, 3),
    time_id=32,
    vae=(32, 64, 96, 96),
    tiny=16,
    text=Text(32, 2, 64),
    text_2=Text(64, 4, 128),
)


def unet_config(scale: Scale) -> Json:
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.19.0.dev0",
        "act_fn": "silu",
        "addition_embed_type": "text_time",
        "addition_embed_type_num_heads": 64,
        "addition_time_embed_dim": scale.time_id,
        "attention_head_dim": list(scale.heads),
        "block_out_channels": list(scale.unet),
        "center_input_sample": False,
        "class_embed_type": None,
        "class_embeddings_concat": False,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "cross_attention_dim": scale.text.hidden + scale.text_2.hidden,
        "cross_attention_norm": None,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "downsample_padding": 1,
        "dual_cross_attention": False,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_only_cross_attention": None,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "num_attention_heads": None,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "out_channels": 4,
        "projection_class_embeddings_input_dim": scale.text_2.hidden + 6 * scale.time_id,
        "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": False,
        "resnet_time_scale_shift": "default",
        "sample_size": 128,
        "time_cond_proj_dim": None,
        "time_embedding_act_fn": None,
        "time_embedding_dim": None,
        "time_embedding_type": "positional",
        "timestep_post_act": None,
        "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "upcast_attention": None,
        "use_linear_projection": True,
    }


def vae_config(scale: Scale) -> Json:
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.20.0.dev0",
        "_name_or_path": "../sdxl-vae/",
        "act_fn": "silu",
        "block_out_channels": list(scale.vae),
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 1024,
        "scaling_factor": 0.13025,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }


def tiny_config(scale: Scale) -> Json:
    return {
        "_class_name": "AutoencoderTiny",
        "_diffusers_version": "0.20.0.dev0",
        "act_fn": "relu",
        "block_out_channels": [scale.tiny] * 4,
        "decoder_block_out_channels": [scale.tiny] * 4,
        "encoder_block_out_channels": [scale.tiny] * 4,
        "force_upcast": False,
        "in_channels": 3,
        "latent_channels": 4,
        "latent_magnitude": 3,
        "latent_shift": 0.5,
        "num_decoder_blocks": [3, 3, 3, 1],
        "num_encoder_blocks": [1, 3, 3, 3],
        "out_channels": 3,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
        "upsample_fn": "nearest",
        "upsampling_scaling_factor": 2,
    }


def text_config(widths: Text, architecture: str, layers: int, activation: str) -> Json:
    return {
        "architectures": [architecture],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": activation,
        "hidden_size": widths.hidden,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": widths.intermediate,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": widths.heads,
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "projection_dim": widths.hidden,
        "torch_dtype": "float16",
        "transformers_version": "4.32.0.dev0",
        "vocab_size": 49408,
    }


def special_token(content: str) -> Json:
    return {
        "content": content,
        "lstrip": False,
        "normalized": True,
        "rstrip": False,
        "single_word": False,
    }


def tokenizer_config(pad: str) -> Json:
    def typed(content: str) -> Json:
        return {"__type": "AddedToken", **special_token(content)}

    return {
        "add_prefix_space": False,
        "bos_token": typed("<|startoftext|>"),
        "clean_up_tokenization_spaces": True,
        "do_lower_case": True,
        "eos_token": typed("<|endoftext|>"),
        "errors": "replace",
        "model_max_length": 77,
        "pad_token": pad,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": typed("<|endoftext|>"),
    }


def special_tokens_map(pad: str) -> Json:
    return {
        "bos_token": special_token("<|startoftext|>"),
        "eos_token": special_token("<|endoftext|>"),
        "pad_token": pad,
        "unk_token": special_token("<|endoftext|>"),
    }


def base_configs(scale: Scale) -> dict[str, Json]:
    """The JSON files of the base repository by their path in it, without the tokenizers' words."""
    return {
        "model_index.json": {
            "_class_name": "StableDiffusionXLPipeline",
            "_diffusers_version": "0.19.0.dev0",
            "force_zeros_for_empty_prompt": True,
            "add_watermarker": None,
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        "scheduler/scheduler_config.json": {
            "_class_name": "EulerDiscreteScheduler",
            "_diffusers_version": "0.19.0.dev0",
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "clip_sample": False,
            "interpolation_type": "linear",
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
            "sample_max_value": 1.0,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "timestep_spacing": "leading",
            "trained_betas": None,
            "use_karras_sigmas": False,
        },
        "text_encoder/config.json": text_config(scale.text, "CLIPTextModel", 12, "quick_gelu"),
        "text_encoder_2/config.json": text_config(
            scale.text_2, "CLIPTextModelWithProjection", 32, "gelu"
        ),
        "tokenizer/special_tokens_map.json": special_tokens_map("<|endoftext|>"),
        "tokenizer/tokenizer_config.json": tokenizer_config("<|endoftext|>"),
        "tokenizer_2/special_tokens_map.json": special_tokens_map("!"),
        "tokenizer_2/tokenizer_config.json": tokenizer_config("!"),
        "unet/config.json": unet_config(scale),
        "vae/config.json": vae_config(scale),
    }


def _names_and_shapes(model: torch.nn.Module, dtype: torch.dtype, prefix: str = "") -> Tensors:
    return {
        prefix + name: torch.empty(tensor.shape, dtype=dtype, device="meta")
        for name, tensor in model.state_dict().items()
    }


@cache
def unet(scale: Scale) -> Tensors:
    """The UNet as a file has it, on the meta device: names, shapes and types without numbers."""
    with torch.device("meta"):
        model = UNet2DConditionModel.from_config(unet_config(scale))
    return _names_and_shapes(model, torch.float16)


@cache
def vae(scale: Scale, dtype: torch.dtype = torch.float16) -> Tensors:
    """The VAE, likewise."""
    with torch.device("meta"):
        model = AutoencoderKL.from_config(vae_config(scale))
    return _names_and_shapes(model, dtype)


@cache
def tiny(scale: Scale) -> Tensors:
    """TAESDXL, likewise."""
    known = {
        name: value
        for name, value in tiny_config(scale).items()
        if name not in ("block_out_channels", "shift_factor", "upsample_fn")
    }
    with torch.device("meta"):
        model = AutoencoderTiny.from_config(known)
    return _names_and_shapes(model, torch.float32)


@cache
def text_encoder(scale: Scale) -> Tensors:
    """CLIP-L, likewise; in files its names begin with `text_model.`, in memory they do not."""
    config = CLIPTextConfig(**base_configs(scale)["text_encoder/config.json"])
    with torch.device("meta"):
        model = CLIPTextModel(config)
    return _names_and_shapes(model, torch.float16, prefix="text_model.")


@cache
def text_encoder_2(scale: Scale) -> Tensors:
    """OpenCLIP bigG in transformers' names, likewise."""
    config = CLIPTextConfig(**base_configs(scale)["text_encoder_2/config.json"])
    with torch.device("meta"):
        model = CLIPTextModelWithProjection(config)
    return _names_and_shapes(model, torch.float16)
