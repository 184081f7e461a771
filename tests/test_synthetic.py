"""The stand-ins of the other tests: held against the real files' facts, and against diffusers."""

import hashlib
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx2
import numpy as np
import pytest
import synthetic
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
)
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from diffusers.loaders.single_file_utils import infer_diffusers_model_type
from hub import Hub, serve_hub
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import safe_open
from safetensors.torch import load_file
from synthetic import scale
from synthetic.loras import Naming, kohya, lora_shapes
from synthetic.names import all_in_one
from synthetic.scale import REAL, Tensors
from synthetic.weights import FROM_PYTORCH, file_size

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    synthetic.write_base(folder)
    return folder


def opened(base: Path, dtype: torch.dtype) -> StableDiffusionXLPipeline:
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        base, variant="fp16", dtype=dtype, local_files_only=True, low_cpu_mem_usage=False
    )
    pipeline.scheduler = EulerDiscreteScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing"
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipeline(base: Path) -> StableDiffusionXLPipeline:
    return opened(base, torch.float32)


def real_all_in_one() -> Tensors:
    return all_in_one(
        scale.unet(REAL), scale.vae(REAL), scale.text_encoder(REAL), scale.text_encoder_2(REAL)
    )


def real_lora() -> Tensors:
    factors = {
        module: tuple(torch.empty(shape, dtype=torch.float16, device="meta") for shape in shapes)
        for module, shapes in lora_shapes(REAL, rank=64).items()
    }
    return kohya(factors, 64.0, "diffusers")


def test_the_names_and_shapes_at_the_real_widths_make_files_of_the_real_sizes() -> None:
    float32_vae = scale.vae(REAL, torch.float32)
    assert {
        "base unet": file_size(scale.unet(REAL), FROM_PYTORCH),
        "lightning unet": file_size(scale.unet(REAL)),
        "lightning lora": file_size(real_lora()),
        "lightning all in one": file_size(real_all_in_one()),
        "vae": file_size(scale.vae(REAL), FROM_PYTORCH),
        "text encoder": file_size(scale.text_encoder(REAL), FROM_PYTORCH),
        "text encoder 2": file_size(scale.text_encoder_2(REAL), FROM_PYTORCH),
        "taesdxl": file_size(scale.tiny(REAL), FROM_PYTORCH),
        "vae fix": file_size(float32_vae, FROM_PYTORCH),
    } == {
        "base unet": 5_135_149_760,
        "lightning unet": 5_135_149_736,
        "lightning lora": 393_854_592,
        "lightning all in one": 6_938_040_682,
        "vae": 167_335_342,
        "text encoder": 246_144_152,
        "text encoder 2": 1_389_382_176,
        "taesdxl": 9_793_292,
        "vae fix": 334_643_268,
    }


def test_the_configurations_at_the_real_widths_are_the_real_files_byte_for_byte() -> None:
    hashes = {
        path: hashlib.sha256((json.dumps(content, indent=2) + "\n").encode()).hexdigest()[:16]
        for path, content in scale.base_configs(REAL).items()
    }
    assert hashes == {
        "model_index.json": "6d7b93508390ab91",
        "scheduler/scheduler_config.json": "af3e45a949aff8b8",
        "text_encoder/config.json": "39b8b2e4b1949e36",
        "text_encoder_2/config.json": "a892d1c3a69a7e92",
        "tokenizer/special_tokens_map.json": "c4864a9376a84019",
        "tokenizer/tokenizer_config.json": "19d7b034cb0cc3ce",
        "tokenizer_2/special_tokens_map.json": "f118ab3a983206e4",
        "tokenizer_2/tokenizer_config.json": "c9d23941f76a41cb",
        "unet/config.json": "30ebc70750223e59",
        "vae/config.json": "0b331c8ac22ded5f",
    }


def test_the_files_on_disk_have_the_real_names_and_the_size_that_the_rule_gives(
    base: Path, tmp_path: Path
) -> None:
    synthetic.write_unet(tmp_path / "unet.safetensors", 1)
    synthetic.write_lora(tmp_path / "lora.safetensors", 1)
    synthetic.write_all_in_one(tmp_path / "one.safetensors", base)
    real = {
        base / "unet/diffusion_pytorch_model.fp16.safetensors": scale.unet(REAL),
        base / "vae/diffusion_pytorch_model.fp16.safetensors": scale.vae(REAL),
        base / "text_encoder/model.fp16.safetensors": scale.text_encoder(REAL),
        base / "text_encoder_2/model.fp16.safetensors": scale.text_encoder_2(REAL),
        tmp_path / "unet.safetensors": scale.unet(REAL),
        tmp_path / "lora.safetensors": real_lora(),
        tmp_path / "one.safetensors": real_all_in_one(),
    }
    for path, tensors in real.items():
        written = load_file(path)
        assert written.keys() == tensors.keys()
        assert {tensor.dtype for tensor in written.values()} == {torch.float16}
        with safe_open(path, "pt") as file:
            assert file.metadata() == (FROM_PYTORCH if path.is_relative_to(base) else None)
            assert path.stat().st_size == file_size(written, file.metadata())
    assert load_file(tmp_path / "lora.safetensors")[
        "lora_unet_down_blocks_0_downsamplers_0_conv.alpha"
    ].equal(torch.tensor(32.0, dtype=torch.float16))


def test_the_tokenizers_know_words_and_have_the_real_size_and_padding(
    pipeline: StableDiffusionXLPipeline,
) -> None:
    first, second = pipeline.tokenizer, pipeline.tokenizer_2
    assert len(first) == len(second) == 49_408
    assert first.tokenize("A photograph of an Astronaut") == [
        "a</w>",
        "photograph</w>",
        "of</w>",
        "an</w>",
        "astronaut</w>",
    ]
    assert first("a").input_ids == [49_406, 320, 49_407]
    assert first.model_max_length == second.model_max_length == 77
    assert first("a", padding="max_length").input_ids[3:] == [49_407] * 74
    assert second("a", padding="max_length").input_ids[3:] == [0] * 74


def picture(pipeline: StableDiffusionXLPipeline, prompt: str) -> np.ndarray:
    """The smallest picture that goes through every layer."""
    drawn = pipeline(
        prompt,
        width=64,
        height=64,
        num_inference_steps=1,
        guidance_scale=0.0,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images[0]
    assert np.isfinite(drawn).all()
    assert drawn.std() > 0.02
    return drawn


def test_diffusers_draws_from_the_base_folder_and_other_words_give_another_picture(
    base: Path, pipeline: StableDiffusionXLPipeline
) -> None:
    red = picture(pipeline, "a red car at night")
    assert np.abs(red - picture(pipeline, "the sea")).mean() > 1 / 255
    in_bfloat16 = picture(opened(base, torch.bfloat16), "a red car at night")
    assert np.abs(red - in_bfloat16).mean() < 3 / 255


def test_diffusers_opens_the_other_decoders_and_what_they_decode_is_no_plain_picture(
    tmp_path: Path,
) -> None:
    synthetic.write_taesdxl(tmp_path / "taesdxl")
    synthetic.write_vae_fix(tmp_path / "fix")
    tiny = AutoencoderTiny.from_pretrained(tmp_path / "taesdxl", low_cpu_mem_usage=False)
    fix = AutoencoderKL.from_pretrained(tmp_path / "fix", low_cpu_mem_usage=False)
    assert not fix.config.force_upcast
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for decoder in (tiny, fix):
        with torch.no_grad():
            decoded = decoder.decode(latents).sample
        assert decoded.shape == (1, 3, 64, 64)
        assert decoded.isfinite().all()
        assert decoded.std() > 0.05


def test_the_all_in_one_file_holds_the_folders_parts_as_diffusers_reads_it(
    base: Path, pipeline: StableDiffusionXLPipeline, tmp_path: Path
) -> None:
    synthetic.write_unet(tmp_path / "unet.safetensors", 1)
    path = tmp_path / "one.safetensors"
    synthetic.write_all_in_one(path, base, tmp_path / "unet.safetensors", v_prediction=True)
    read = StableDiffusionXLPipeline.from_single_file(
        path, config=str(base), dtype=torch.float32, local_files_only=True
    )
    for name in PARTS:
        part = getattr(read, name).state_dict()
        expected = getattr(pipeline, name).state_dict()
        if name == "unet":
            expected = load_file(tmp_path / "unet.safetensors")
        assert part.keys() == expected.keys()
        assert all(torch.equal(part[key], expected[key].float()) for key in part)
    marks = load_file(path)
    assert marks["v_pred"].shape == marks["ztsnr"].shape == (0,)


def changes(path: Path) -> Tensors:
    """What diffusers would add to each module's weight."""
    factors, alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict(
        load_file(path), unet_config=SimpleNamespace(layers_per_block=2)
    )
    deltas: Tensors = {}
    for name, down in factors.items():
        if not (match := re.search(r"[._](lora(_linear_layer)?\.down|lora_A)\.weight$", name)):
            continue
        up = factors[name.replace(".down.", ".up.").replace("lora_A", "lora_B")]
        kind, module = match[0], name[: match.start()].replace(".processor", "")
        if kind.startswith("_"):
            module = re.sub(r"\.to_out$", ".to_out.0", module)
            if module.startswith("text_encoder"):
                module = re.sub(r"\.to_(q|k|v|out)(\.0)?$", r".\1_proj", module)
        factor = 1.0
        if alphas is not None:
            (alpha,) = {alphas.get(f"{name}.alpha"), alphas.get(f"{module}.alpha")} - {None}
            factor = alpha / down.shape[0]
        delta = factor * up.float().flatten(1) @ down.float().flatten(1)
        deltas[module] = delta.reshape(up.shape[0], *down.shape[1:])
    return deltas


@pytest.mark.parametrize("naming", ["diffusers", "sgm", "peft"])
def test_a_lora_makes_the_same_change_under_each_naming_as_diffusers_reads_it(
    naming: Naming, tmp_path: Path
) -> None:
    path = tmp_path / "lora.safetensors"
    synthetic.write_lora(path, seed=1, naming=naming, text_encoders=True)
    expected = synthetic.lora_deltas(seed=1, text_encoders=True)
    found = changes(path)
    assert len(expected) == 788 + 12 * 6 + 32 * 6
    assert found.keys() == expected.keys()
    for module, delta in found.items():
        assert torch.allclose(delta, expected[module], rtol=1e-6, atol=1e-7)


def test_the_files_of_other_kinds_are_what_they_say(tmp_path: Path) -> None:
    kinds = {
        synthetic.write_sd15: "v1",
        synthetic.write_sd2: "v2",
        synthetic.write_refiner: "xl_refiner",
        synthetic.write_flux: "flux-schnell",
    }
    for write, kind in kinds.items():
        path = tmp_path / f"{kind}.safetensors"
        write(path)
        assert infer_diffusers_model_type(load_file(path)) == kind
    synthetic.write_sd15_lora(tmp_path / "lora.safetensors")
    synthetic.write_lokr(tmp_path / "lokr.safetensors")
    assert any("lora_te_" in name for name in load_file(tmp_path / "lora.safetensors"))
    assert all(
        "lokr" in name or "alpha" in name for name in load_file(tmp_path / "lokr.safetensors")
    )


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    repository = tmp_path / "hub" / "owner" / "name"
    repository.mkdir(parents=True)
    (repository / "config.json").write_text("{}")
    (repository / "model.safetensors").write_bytes(bytes(range(256)) * 50_000)
    with serve_hub(tmp_path / "hub") as hub:
        yield hub


def download(hub: Hub, path: str, cache: Path, repository: str = "owner/name") -> Path:
    return Path(
        hf_hub_download(
            repository, path, revision=COMMIT, cache_dir=cache, endpoint=hub.url, token=False
        )
    )


def test_the_hubs_own_client_downloads_from_the_stand_in_once(hub: Hub, tmp_path: Path) -> None:
    original = hub.root / "owner/name/model.safetensors"
    for _ in range(2):
        path = download(hub, "model.safetensors", tmp_path / "cache")
        assert path.read_bytes() == original.read_bytes()
    assert path.resolve().name == hashlib.sha256(original.read_bytes()).hexdigest()
    assert path.parent.name == COMMIT
    assert download(hub, "config.json", tmp_path / "cache").read_text() == "{}"
    assert [request.method for request in hub.requests] == ["HEAD", "GET"] * 2


def test_the_hubs_own_client_goes_on_where_the_stand_in_broke_off(hub: Hub, tmp_path: Path) -> None:
    hub.break_after = 11 * 2**20
    path = download(hub, "model.safetensors", tmp_path / "cache")
    assert path.read_bytes() == (hub.root / "owner/name/model.safetensors").read_bytes()
    # The client writes in pieces of 10 MiB.
    assert hub.ranges == [None, f"bytes={10 * 2**20}-"]


def test_a_connection_torn_down_ends_the_download_and_leaves_nothing(
    hub: Hub, tmp_path: Path
) -> None:
    hub.break_after, hub.reset = 11 * 2**20, True
    with pytest.raises(httpx2.ReadError):
        download(hub, "model.safetensors", tmp_path / "cache")
    assert list(tmp_path.rglob("*.incomplete")) == []
    assert (
        try_to_load_from_cache(
            "owner/name", "model.safetensors", cache_dir=tmp_path / "cache", revision=COMMIT
        )
        is None
    )


def test_wrong_bytes_of_the_right_length_are_stored_as_if_they_were_right(
    hub: Hub, tmp_path: Path
) -> None:
    hub.corrupt = "owner/name/model.safetensors"
    path = download(hub, "model.safetensors", tmp_path / "cache")
    original = hub.root / "owner/name/model.safetensors"
    assert path.stat().st_size == original.stat().st_size
    assert path.read_bytes() != original.read_bytes()
    assert path.resolve().name == hashlib.sha256(original.read_bytes()).hexdigest()


def test_what_the_stand_in_lacks_is_refused_in_the_hubs_own_words(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(RemoteEntryNotFoundError):
        download(hub, "absent.json", tmp_path / "cache")
    with pytest.raises(RepositoryNotFoundError):
        download(hub, "config.json", tmp_path / "cache", "owner/absent")
    hub.gated = True
    with pytest.raises(GatedRepoError):
        download(hub, "config.json", tmp_path / "cache")
    hub.refuse = True
    with pytest.raises(urllib.error.HTTPError, match="503") as refused:
        urllib.request.urlopen(f"{hub.url}/owner/name/resolve/{COMMIT}/config.json")
    refused.value.close()
