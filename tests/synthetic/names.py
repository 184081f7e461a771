"""The same weights under the other names that files use: SGM's (also called LDM's), and LoRAs'."""

import re

import torch

from .scale import Tensors

Rules = tuple[tuple[str, str], ...]

RESNET: Rules = (
    (r"\.norm1\b", ".in_layers.0"),
    (r"\.conv1\b", ".in_layers.2"),
    (r"\.time_emb_proj\b", ".emb_layers.1"),
    (r"\.norm2\b", ".out_layers.0"),
    (r"\.conv2\b", ".out_layers.3"),
    (r"\.conv_shortcut\b", ".skip_connection"),
)
UNET_ENDS: Rules = (
    (r"^time_embedding\.linear_1\b", "time_embed.0"),
    (r"^time_embedding\.linear_2\b", "time_embed.2"),
    (r"^add_embedding\.linear_1\b", "label_emb.0.0"),
    (r"^add_embedding\.linear_2\b", "label_emb.0.2"),
    (r"^conv_in\b", "input_blocks.0.0"),
    (r"^conv_norm_out\b", "out.0"),
    (r"^conv_out\b", "out.2"),
)
VAE: Rules = (
    (r"\bconv_norm_out\b", "norm_out"),
    (r"\bdown_blocks\.(\d)\.resnets\b", r"down.\1.block"),
    (r"\bdown_blocks\.(\d)\.downsamplers\.0\b", r"down.\1.downsample"),
    (r"\bup_blocks\.0\b", "up.3"),
    (r"\bup_blocks\.1\b", "up.2"),
    (r"\bup_blocks\.2\b", "up.1"),
    (r"\bup_blocks\.3\b", "up.0"),
    (r"\b(up\.\d)\.resnets\b", r"\1.block"),
    (r"\b(up\.\d)\.upsamplers\.0\b", r"\1.upsample"),
    (r"\bconv_shortcut\b", "nin_shortcut"),
    (r"\bmid_block\.resnets\.0\b", "mid.block_1"),
    (r"\bmid_block\.resnets\.1\b", "mid.block_2"),
    (r"\bmid_block\.attentions\.0\b", "mid.attn_1"),
    (r"\battn_1\.group_norm\b", "attn_1.norm"),
    (r"\battn_1\.to_([qkv])\b", r"attn_1.\1"),
    (r"\battn_1\.to_out\.0\b", "attn_1.proj_out"),
)
OPEN_CLIP: Rules = (
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^text_model\.embeddings\.token_embedding\b", "token_embedding"),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\b", "ln_final"),
    (r"^text_projection\.weight$", "text_projection"),
    (r"\.layer_norm1\b", ".ln_1"),
    (r"\.layer_norm2\b", ".ln_2"),
    (r"\.mlp\.fc1\b", ".mlp.c_fc"),
    (r"\.mlp\.fc2\b", ".mlp.c_proj"),
    (r"\.self_attn\.out_proj\b", ".attn.out_proj"),
)


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def sgm_unet_name(name: str) -> str:
    """SGM's name of a UNet weight or module, without the all-in-one file's prefix.

    SGM counts its blocks in one row: a resnet with its attention is a block, and a downsampler is
    one more; an upsampler belongs to the block before it.
    """
    if match := re.match(r"down_blocks\.(\d)\.(resnets|attentions)\.(\d)(.*)", name):
        block, kind, layer, rest = match.groups()
        name = f"input_blocks.{3 * int(block) + int(layer) + 1}.{int(kind == 'attentions')}{rest}"
    elif match := re.match(r"down_blocks\.(\d)\.downsamplers\.0\.conv(.*)", name):
        block, rest = match.groups()
        name = f"input_blocks.{3 * int(block) + 3}.0.op{rest}"
    elif match := re.match(r"mid_block\.(resnets|attentions)\.(\d)(.*)", name):
        kind, layer, rest = match.groups()
        name = f"middle_block.{1 if kind == 'attentions' else 2 * int(layer)}{rest}"
    elif match := re.match(r"up_blocks\.(\d)\.(resnets|attentions)\.(\d)(.*)", name):
        block, kind, layer, rest = match.groups()
        name = f"output_blocks.{3 * int(block) + int(layer)}.{int(kind == 'attentions')}{rest}"
    elif match := re.match(r"up_blocks\.(\d)\.upsamplers\.0(.*)", name):
        block, rest = match.groups()
        name = f"output_blocks.{3 * int(block) + 2}.2{rest}"
    else:
        return _renamed(name, UNET_ENDS)
    return name if ".transformer_blocks." in name else _renamed(name, RESNET)


def sgm_unet(unet: Tensors) -> Tensors:
    return {sgm_unet_name(name): tensor for name, tensor in unet.items()}


def ldm_vae(vae: Tensors) -> Tensors:
    """The VAE in LDM's names, its attention's matrices as convolutions of size 1."""
    renamed = {_renamed(name, VAE): tensor for name, tensor in vae.items()}
    return {
        name: tensor[:, :, None, None]
        if re.search(r"attn_1\.(q|k|v|proj_out)\.weight$", name)
        else tensor
        for name, tensor in renamed.items()
    }


def open_clip(text_encoder_2: Tensors) -> Tensors:
    """BigG in OpenCLIP's names: one matrix for q, k and v, and the projection transposed."""
    renamed: Tensors = {}
    for name, tensor in text_encoder_2.items():
        if match := re.search(r"(.*)\.self_attn\.q_proj\.(weight|bias)", name):
            layer, kind = match.groups()
            parts = [text_encoder_2[f"{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            renamed[_renamed(f"{layer}.attn.in_proj_{kind}", OPEN_CLIP)] = torch.cat(parts)
        elif not re.search(r"\.self_attn\.[kv]_proj\.", name):
            renamed[_renamed(name, OPEN_CLIP)] = tensor
    renamed["text_projection"] = renamed["text_projection"].T.contiguous()
    return renamed


def all_in_one(
    unet: Tensors, vae: Tensors, text_encoder: Tensors, text_encoder_2: Tensors
) -> Tensors:
    """The four parts as one file holds them, with the two tensors that only such files hold."""
    first, second = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
    device = next(iter(unet.values())).device
    return {
        **{f"model.diffusion_model.{name}": tensor for name, tensor in sgm_unet(unet).items()},
        **{f"first_stage_model.{name}": tensor for name, tensor in ldm_vae(vae).items()},
        **{first + name: tensor for name, tensor in text_encoder.items()},
        first + "text_model.embeddings.position_ids": torch.arange(
            77, dtype=torch.float16, device=device
        )[None],
        **{second + name: tensor for name, tensor in open_clip(text_encoder_2).items()},
        second + "logit_scale": torch.tensor(4.6055, dtype=torch.float16, device=device),
    }
