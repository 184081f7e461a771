"""Small repositories in the real ones' formats, and the catalogue's entry that speaks of them."""

import hashlib
from dataclasses import replace
from pathlib import Path

from sdxl_lightning_mcp.catalogue import LIGHTNING, OPENRAIL, SDXL_BASE_CHECKPOINT
from sdxl_lightning_mcp.checkpoint import Checkpoint, Lora, Model, Repository, WeightFile

REVISION = "0123456789abcdef0123456789abcdef01234567"
BASE, LIGHTNING_FILES, VAE, TINY = "small/base", "small/lightning", "small/vae", "small/tiny"
NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")


def write_repositories(root: Path) -> None:
    """Everything that the real catalogue speaks of, in one folder per repository."""
    # Brings torch, which those who only read the entry need not wait for.
    import synthetic

    synthetic.write_base(root / BASE)
    synthetic.write_vae_fix(root / VAE)
    synthetic.write_taesdxl(root / TINY)
    files = root / LIGHTNING_FILES
    files.mkdir(parents=True)
    for steps in (1, 4, 8):
        synthetic.write_unet(files / f"small_{steps}step_unet.safetensors", seed=steps)
    synthetic.write_lora(files / "small_4step_lora.safetensors", seed=5)
    synthetic.write_all_in_one(
        files / "small_4step.safetensors", root / BASE, files / "small_4step_unet.safetensors"
    )


def small_model(root: Path, *, on_hub: bool = False) -> Model:
    """The entry for these repositories: on this disk, or on a hub that serves them."""

    def file(role: str, repository: str, path: str) -> WeightFile:
        place = root / repository / path
        source = Repository(repository, REVISION, OPENRAIL) if on_hub else root / repository
        digest = hashlib.sha256(place.read_bytes()).hexdigest()
        return WeightFile(role, path, source, place.stat().st_size, digest)

    surroundings: list[WeightFile] = []
    for path in sorted((root / BASE).rglob("*.*")):
        name = path.relative_to(root / BASE).as_posix()
        part = name.partition("/")[0]
        if path.suffix == ".safetensors":
            surroundings.append(file(part, BASE, name))
        elif part in (*NETWORKS, "tokenizer", "tokenizer_2"):
            surroundings.append(file(name, BASE, name))
    vae = file("vae-fp16", VAE, "diffusion_pytorch_model.safetensors")
    base = replace(SDXL_BASE_CHECKPOINT, name="small_base", files=tuple(surroundings))
    base = base.with_files(vae, without=("vae",))

    def lightning(name: str, role: str, steps: int) -> Checkpoint:
        weights = file(role, LIGHTNING_FILES, f"{name}.safetensors")
        made = replace(base, name=name, steps=steps, guidance=0.0, spacing="trailing")
        if role == "lora":
            return replace(made, loras=(Lora(weights),))
        encoders = ("text_encoder", "text_encoder_2") if role == "all-in-one" else ()
        return made.with_files(weights, without=("unet", *encoders))

    one_step = replace(lightning("small_1step_unet", "unet", 1), prediction_type="sample")
    return replace(
        LIGHTNING,
        slug="small",
        checkpoints=(
            lightning("small_4step_unet", "unet", 4),
            lightning("small_8step_unet", "unet", 8),
            one_step,
        ),
        variants=(
            base,
            lightning("small_4step_lora", "lora", 4),
            lightning("small_4step", "all-in-one", 4),
        ),
    )


def tiny_vae(root: Path) -> WeightFile:
    """TAESDXL's small twin."""
    return WeightFile("vae-tiny", "diffusion_pytorch_model.safetensors", root / TINY)
