"""Files of other kinds than SDXL's, which must be refused: a few of each one's real tensors."""

from pathlib import Path

import torch

from .scale import Tensors
from .weights import write_hollow

UNET = "model.diffusion_model."
BLOCK = "transformer_blocks.0."


def _tensors(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float16) -> Tensors:
    return {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()}


def _first_stage() -> dict[str, tuple[int, ...]]:
    return {
        "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
        "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
        "first_stage_model.post_quant_conv.weight": (4, 4, 1, 1),
    }


def write_sd15(path: Path) -> None:
    """Stable Diffusion 1.5, all in one: CLIP-L alone, so that attention reads 768 numbers."""
    text = "cond_stage_model.transformer.text_model."
    write_hollow(
        path,
        _tensors(
            {
                f"{UNET}time_embed.0.weight": (1280, 320),
                f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3),
                f"{UNET}input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
                f"{UNET}input_blocks.1.1.{BLOCK}attn1.to_q.weight": (320, 320),
                f"{UNET}input_blocks.1.1.{BLOCK}attn2.to_k.weight": (320, 768),
                f"{UNET}input_blocks.2.1.{BLOCK}attn2.to_k.weight": (320, 768),
                f"{UNET}out.2.weight": (4, 320, 3, 3),
                f"{text}embeddings.position_embedding.weight": (77, 768),
                f"{text}encoder.layers.0.self_attn.q_proj.weight": (768, 768),
                f"{text}final_layer_norm.weight": (768,),
                **_first_stage(),
            }
        ),
    )


def write_sd2(path: Path) -> None:
    """Stable Diffusion 2: OpenCLIP ViT-H alone, so that attention reads 1,024 numbers."""
    text = "cond_stage_model.model."
    write_hollow(
        path,
        _tensors(
            {
                f"{UNET}time_embed.0.weight": (1280, 320),
                f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3),
                f"{UNET}input_blocks.1.1.proj_in.weight": (320, 320),
                f"{UNET}input_blocks.1.1.{BLOCK}attn2.to_k.weight": (320, 1024),
                f"{UNET}input_blocks.2.1.{BLOCK}attn2.to_k.weight": (320, 1024),
                f"{UNET}out.2.weight": (4, 320, 3, 3),
                f"{text}positional_embedding": (77, 1024),
                f"{text}transformer.resblocks.0.ln_1.weight": (1024,),
                f"{text}transformer.resblocks.0.attn.in_proj_bias": (3072,),
                f"{text}ln_final.weight": (1024,),
                **_first_stage(),
            }
        ),
    )


def write_refiner(path: Path) -> None:
    """SDXL's refiner: OpenCLIP bigG alone, in the first place, and widths from 384 on."""
    text = "conditioner.embedders.0.model."
    write_hollow(
        path,
        _tensors(
            {
                f"{UNET}time_embed.0.weight": (1536, 384),
                f"{UNET}label_emb.0.0.weight": (1536, 2560),
                f"{UNET}input_blocks.0.0.weight": (384, 4, 3, 3),
                f"{UNET}input_blocks.4.1.proj_in.weight": (768, 768),
                f"{UNET}input_blocks.4.1.{BLOCK}attn2.to_k.weight": (768, 1280),
                f"{UNET}out.2.weight": (4, 384, 3, 3),
                f"{text}positional_embedding": (77, 1280),
                f"{text}text_projection": (1280, 1280),
                f"{text}transformer.resblocks.9.mlp.c_proj.bias": (1280,),
                f"{text}logit_scale": (),
                **_first_stage(),
            }
        ),
    )


def write_flux(path: Path) -> None:
    """FLUX.1's transformer: no UNet at all."""
    write_hollow(
        path,
        _tensors(
            {
                "img_in.weight": (3072, 64),
                "txt_in.weight": (3072, 4096),
                "time_in.in_layer.weight": (3072, 256),
                "vector_in.in_layer.weight": (3072, 768),
                "guidance_in.in_layer.weight": (3072, 256),
                "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
                "double_blocks.0.img_attn.proj.weight": (3072, 3072),
                "single_blocks.0.norm.query_norm.scale": (128,),
                "final_layer.linear.weight": (64, 3072),
            },
            torch.bfloat16,
        ),
    )


def write_sd15_lora(path: Path, rank: int = 4) -> None:
    """A LoRA for Stable Diffusion 1.5: kohya's names, attention over 768 numbers, one encoder."""
    unet = "lora_unet_down_blocks_0_attentions_0_"
    block = f"{unet}transformer_blocks_0_"
    text = "lora_te_text_model_encoder_layers_0_"
    ends = {
        f"{unet}proj_in": ((rank, 320, 1, 1), (320, rank, 1, 1)),
        f"{block}attn1_to_q": ((rank, 320), (320, rank)),
        f"{block}attn2_to_k": ((rank, 768), (320, rank)),
        f"{block}attn2_to_v": ((rank, 768), (320, rank)),
        f"{block}ff_net_0_proj": ((rank, 320), (2560, rank)),
        f"{text}self_attn_q_proj": ((rank, 768), (768, rank)),
        f"{text}mlp_fc1": ((rank, 768), (3072, rank)),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for module, (down, up) in ends.items():
        shapes |= {
            f"{module}.alpha": (),
            f"{module}.lora_down.weight": down,
            f"{module}.lora_up.weight": up,
        }
    write_hollow(path, _tensors(shapes))


def write_lokr(path: Path) -> None:
    """LyCORIS' LoKr for SDXL: a Kronecker product in place of a low-rank one, of 640 x 640."""
    module = "lora_unet_input_blocks_4_1_transformer_blocks_0_"
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in ("attn1_to_q", "attn1_to_k", "attn1_to_v", "attn1_to_out_0"):
        shapes |= {
            f"{module}{layer}.alpha": (),
            f"{module}{layer}.lokr_w1": (16, 16),
            f"{module}{layer}.lokr_w2_a": (40, 4),
            f"{module}{layer}.lokr_w2_b": (4, 40),
        }
    write_hollow(path, _tensors(shapes))
