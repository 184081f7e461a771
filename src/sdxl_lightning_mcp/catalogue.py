"""The models that can be run, as data: adding one is adding an entry.

Repositories, revisions, sizes and hashes are those their authors published.
"""

import difflib
from dataclasses import replace
from pathlib import Path

from sdxl_lightning_mcp.checkpoint import (
    SIDE,
    Checkpoint,
    License,
    Lora,
    Model,
    PredictionType,
    Range,
    Repository,
    WeightFile,
)
from sdxl_lightning_mcp.errors import UnknownModelError

PACKAGE = Path(__file__).parent

APACHE = License("Apache-2.0")
MIT = License("MIT")
OPENRAIL = License(
    "CreativeML Open RAIL++-M",
    "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md",
    # Attachment A in short; the text behind the link is what counts.
    restrictions=(
        "breaking the law",
        "harming minors",
        "false information made to harm others",
        "personal data used to harm someone",
        "defamation and harassment",
        "fully automated decisions against a person's legal rights",
        "discrimination by behaviour or personal traits",
        "discrimination by legally protected traits",
        "exploiting a group's vulnerabilities",
        "medical advice",
        "predictions about persons for law enforcement, immigration or justice",
    ),
)

LIGHTNING_REPOSITORY = Repository(
    "ByteDance/SDXL-Lightning", "c9a24f48e1c025556787b0c58dd67a091ece2e44", OPENRAIL
)
BASE_REPOSITORY = Repository(
    "stabilityai/stable-diffusion-xl-base-1.0", "462165984030d82259a11f4367a4eed129e94a7b", OPENRAIL
)
VAE_FIX_REPOSITORY = Repository(
    "madebyollin/sdxl-vae-fp16-fix", "207b116dae70ace3637169f1ddd2434b91b3a8cd", MIT
)
TAESDXL_REPOSITORY = Repository(
    "madebyollin/taesdxl", "b20258aaef75ef61e659c1e0f14f251cf0ad153e", MIT
)


def _files(source: Repository | Path, manifest: str) -> tuple[WeightFile, ...]:
    """Reads rows of sha256, bytes, role and path; a role of `=` is the path itself."""
    rows = (line.split() for line in manifest.strip().splitlines())
    return tuple(
        WeightFile(path if role == "=" else role, path, source, int(size), sha256)
        for sha256, size, role, path in rows
    )


# What every SDXL needs beside its UNet: configurations, tokenizers, text encoders.
SDXL_CONFIGS = _files(
    BASE_REPOSITORY,
    """
    39b8b2e4b1949e36969caa425b6c81c68bace99198dd9078ce05d16ad401fe7f     565 = text_encoder/config.json
    a892d1c3a69a7e9247a24de2bc1d5891e3109a54696e53be20093af671072c34     575 = text_encoder_2/config.json
    9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a  524619 = tokenizer/merges.txt
    e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349 1059962 = tokenizer/vocab.json
    c4864a9376a8401918425bed71fc14fc0e81f9b59ec45c1cf96cccb2df508eac     472 = tokenizer/special_tokens_map.json
    19d7b034cb0cc3ce9766c2231373ab8aa8991fc72e2c8f76558bfaae3de0d563     737 = tokenizer/tokenizer_config.json
    9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a  524619 = tokenizer_2/merges.txt
    e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349 1059962 = tokenizer_2/vocab.json
    f118ab3a983206e4f32583448de6bd6aae4ee21869135cef1f5848a753cdaab6     460 = tokenizer_2/special_tokens_map.json
    c9d23941f76a41cbd50eda9290f57be7828f0a7a677939e9ef181f7e12bd1bdf     725 = tokenizer_2/tokenizer_config.json
    30ebc70750223e59006f7f2b4e1e6c102570aa19a9c4ae3e1fbe7591332dbae6    1680 = unet/config.json
    0b331c8ac22ded5f9997a144a575c1d113d6169aff262c353f39015bd24a6264     642 = vae/config.json
    """,
)
SDXL_TEXT_ENCODERS = _files(
    BASE_REPOSITORY,
    """
    660c6f5b1abae9dc498ac2d21e1347d2abdb0cf6c0c0c8576cd796491d9a6cdd  246144152 text_encoder   text_encoder/model.fp16.safetensors
    ec310df2af79c318e24d20511b601a591ca8cd4f1fce1d8dff822a356bcdb1f4 1389382176 text_encoder_2 text_encoder_2/model.fp16.safetensors
    """,
)
SDXL_UNET = _files(
    BASE_REPOSITORY,
    "83e012a805b84c7ca28e5646747c90a243c65c8ba4f070e2d7ddc9d74661e139 5135149760 unet unet/diffusion_pytorch_model.fp16.safetensors",
)
# Base's own VAE leaves float16's range and gives black pictures; this one was tuned not to.
VAE_FIX = _files(
    VAE_FIX_REPOSITORY,
    "1b909373b28f2137098b0fd9dbc6f97f8410854f31f84ddc9fa04b077b0ace2c 334643268 vae-fp16 diffusion_pytorch_model.safetensors",
)
TAESDXL = _files(
    TAESDXL_REPOSITORY,
    "ff4824aca94dd6111e0340fa749347fb74101060d9712cb5ef1ca8f1cf17502f 9793292 vae-tiny diffusion_pytorch_model.safetensors",
)

SDXL_BASE_CHECKPOINT = Checkpoint(
    name="sd_xl_base_1.0",
    files=(*SDXL_CONFIGS, *SDXL_TEXT_ENCODERS, *VAE_FIX, *SDXL_UNET),
    steps=25,
    guidance=5.0,
    prediction_type="epsilon",
    spacing="leading",
    license=OPENRAIL,
)


def _lightning(row: str, predicts: PredictionType = "epsilon") -> Checkpoint:
    """One file of SDXL-Lightning, with what of SDXL base it needs around it."""
    (file,) = _files(LIGHTNING_REPOSITORY, row)
    checkpoint = replace(
        SDXL_BASE_CHECKPOINT,
        name=file.name,
        steps=int(file.name.removeprefix("sdxl_lightning_")[0]),
        guidance=0.0,
        prediction_type=predicts,
        spacing="trailing",
    )
    if file.role == "lora":
        return replace(checkpoint, loras=(Lora(file),))
    encoders = ("text_encoder", "text_encoder_2") if file.role == "all-in-one" else ()
    return checkpoint.with_files(file, without=("unet", *encoders))


LIGHTNING_UNETS = (
    _lightning(
        "39a90a8a2a25c1372633c1e8eb1a96f85eab937bcb58cfc6ec9baf66242ec23c 5135149736 unet sdxl_lightning_4step_unet.safetensors"
    ),
    _lightning(
        "15a96a3b213b8b4d6ea720b4fa5bf6723cd877170bd1a90f58e34da2968ef854 5135149736 unet sdxl_lightning_2step_unet.safetensors"
    ),
    _lightning(
        "471d8260fda0b17b8906feb24573ce64933d4b6b99ba7a1fa43ca051b994e869 5135149736 unet sdxl_lightning_8step_unet.safetensors"
    ),
    # An experiment of its authors: it predicts the clean sample, and is used where it is pulled.
    _lightning(
        "14d53ad5b440a37fc0f429d595d96bf144c5dd842aa5747383e6098c9dbfa644 5135149736 unet sdxl_lightning_1step_unet_x0.safetensors",
        "sample",
    ),
)
LIGHTNING_VARIANTS = (
    _lightning(
        "bf56cf2657efb15e465d81402ed481d1e11c4677e4bcce1bc11fe71ad8506b79 393854592 lora sdxl_lightning_4step_lora.safetensors"
    ),
    _lightning(
        "04fafc778385b24144498a8247498ae4fb7a69f702ea0566bdce2845a31fcc43 393854592 lora sdxl_lightning_2step_lora.safetensors"
    ),
    _lightning(
        "5aa30d94cdf7950a8b53a693682650ee061eddb128c5435a8f88defea73b2ac6 393854592 lora sdxl_lightning_8step_lora.safetensors"
    ),
    _lightning(
        "e0d996ee0013e79d9d3561f50fcafb9a17e3ff07b780358e3b66d67932c4d490 6938040682 all-in-one sdxl_lightning_4step.safetensors"
    ),
    _lightning(
        "87e61f60b85d9f1c577bd9053872c7678b7d39f6f52d470081ff6ea3b49ddf98 6938040682 all-in-one sdxl_lightning_2step.safetensors"
    ),
    _lightning(
        "43f0501ac4ffcef84f3fc32a47779f24c181647fa97ef7f5ec4428107d732ae9 6938040682 all-in-one sdxl_lightning_8step.safetensors"
    ),
    _lightning(
        "dd8d4c2b341cdbbe88178135786bd4ea1a6f46d6dcb719f05524a5e761ae19a0 6938040682 all-in-one sdxl_lightning_1step_x0.safetensors",
        "sample",
    ),
)

LIGHTNING = Model(
    slug="sd-xl-lightning",
    title="SDXL-Lightning",
    summary=(
        "ByteDance's few-step SDXL: detailed pictures of nearly anything at about one megapixel, "
        "in four steps."
    ),
    native_size=1024,
    # SDXL's training buckets near one megapixel (Podell et al., arXiv 2307.01952).
    sizes=(
        (1024, 1024),
        (1152, 896),
        (896, 1152),
        (1216, 832),
        (832, 1216),
        (1344, 768),
        (768, 1344),
        (1536, 640),
        (640, 1536),
    ),
    side=SIDE,
    max_pixels=1536 * 1536,
    steps=Range(1, 12),
    default_steps=4,
    guidance=Range(0, 10),
    default_guidance=0.0,
    checkpoints=LIGHTNING_UNETS,
    variants=LIGHTNING_VARIANTS,
)
SDXL_BASE = replace(
    LIGHTNING,
    slug="sdxl-base",
    title="SDXL base 1.0",
    summary=(
        "Stable Diffusion XL 1.0 as Stability AI published it, the reference: detailed pictures "
        "of nearly anything, in 25 steps with guidance."
    ),
    steps=Range(1, 100),
    default_steps=25,
    guidance=Range(0, 20),
    default_guidance=5.0,
    checkpoints=(SDXL_BASE_CHECKPOINT,),
    variants=(),
)
MINI_FOLDER = PACKAGE / "mini"
# Text, which git may give other line ends: no hashes.
MINI_CONFIGS = tuple(
    WeightFile(role, role, MINI_FOLDER)
    for role in (
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "text_encoder_2/config.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer_2/tokenizer.json",
        "tokenizer_2/tokenizer_config.json",
    )
)
MINI = Model(
    slug="mini",
    title="mini",
    summary=(
        "A very small model of SDXL's architecture that runs on any machine. It draws cities, "
        "cyberpunk streets, seas, deserts, mountains, forests, fields and villages by day, at "
        "sunset or at night, and, best at 1024x1024, single plain objects on plain backgrounds; "
        "other words it does not know."
    ),
    native_size=1024,
    sizes=((1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216), (768, 768)),
    side=SIDE,
    max_pixels=1536 * 1536,
    steps=Range(1, 12),
    default_steps=4,
    guidance=Range(0, 10),
    default_guidance=0.0,
    checkpoints=(
        Checkpoint(
            name="mini-1",
            files=MINI_CONFIGS
            + _files(
                MINI_FOLDER,
                """
                5b3a2a98fb49bfcd9d127d8b04c488cf5ead04e0db26316334bbca9ae0e81fe6   288920 text_encoder   text_encoder/model.safetensors
                85f5c0dfa4ad99276cacb40488104be810bbe6c7fcc19b74924a69f9f9ff9e37   869672 text_encoder_2 text_encoder_2/model.safetensors
                9e9a44eee62cb708b05f0e420627cdd4fb770cd4f8b9310b0b36279f346efd42 10427304 unet           unet/diffusion_pytorch_model.safetensors
                2ccce0e6f72877da520abb449703336b6b17388cf109f83cc6637fda168740d2  2319422 vae            vae/diffusion_pytorch_model.safetensors
                """,
            ),
            steps=4,
            guidance=0.0,
            prediction_type="sample",
            license=APACHE,
            # Negative prompts were trained at 2 to 4.
            bears_guidance=4.0,
            # It learnt from captions of one chunk.
            prompt_chunks=1,
        ),
    ),
)

CATALOGUE: dict[str, Model] = {model.slug: model for model in (LIGHTNING, SDXL_BASE, MINI)}
"""The models by name; a checkpoint's name is one too (`find`)."""


def find(name: str) -> Model:
    """Returns the model called `name`, or the one of the checkpoint called `name` with it alone.

    Raises:
        UnknownModelError: Neither has that name; the text lists those that there are.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    for model in CATALOGUE.values():
        for checkpoint in (*model.checkpoints, *model.variants):
            if checkpoint.name == name:
                return replace(model.narrowed(checkpoint), slug=name)
    known = names()
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise UnknownModelError(
        f"model: got {name!r}; there are: {', '.join(CATALOGUE)}, the checkpoints that "
        f"`sdxl-lightning-mcp models` lists, a folder and a .safetensors file.{hint}"
    )


def names() -> list[str]:
    """Every name that `find` knows."""
    every = CATALOGUE.values()
    checkpoints = [one.name for model in every for one in (*model.checkpoints, *model.variants)]
    return list(dict.fromkeys([*CATALOGUE, *checkpoints]))
