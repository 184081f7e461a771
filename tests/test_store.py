"""Finished pictures on disk."""

import os
import re
import resource
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from sdxl_lightning_mcp.errors import StorageError
from sdxl_lightning_mcp.ids import new_run_id
from sdxl_lightning_mcp.image import GeneratedImage, encode
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.store import Store

NOW = datetime(2026, 11, 23, 5, 12, 44, tzinfo=UTC)


@pytest.fixture
def image(parameters: Parameters) -> GeneratedImage:
    return encode(Image.new("RGB", (64, 64), "navy"), parameters, NOW)


def test_a_picture_lies_under_the_folder_with_date_time_and_run_id(
    tmp_path: Path, image: GeneratedImage
) -> None:
    run_id = new_run_id()
    path = Store(tmp_path / "new" / "folder").save(image, run_id, NOW)
    assert path.parent == tmp_path / "new" / "folder"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_" + run_id + r"\.jpg", path.name)
    assert path.read_bytes() == image.jpeg


def test_a_picture_is_never_overwritten(tmp_path: Path, image: GeneratedImage) -> None:
    store = Store(tmp_path)
    path = store.save(image, "a", NOW)
    path.write_bytes(b"mine")
    with pytest.raises(StorageError, match=r"There is a file .* already"):
        store.save(image, "a", NOW)
    assert path.read_bytes() == b"mine"


def test_without_a_folder_pictures_go_to_the_persons_pictures(image: GeneratedImage) -> None:
    store = Store()
    path = store.save(image, "a", NOW)
    assert path.parent == Path.home() / "Pictures" / "sdxl-lightning"
    assert store.note is None


def test_where_the_persons_pictures_cannot_be_written_a_stated_folder_is_taken(
    image: GeneratedImage,
) -> None:
    (Path.home() / "Pictures").write_text("in the way")
    store = Store()
    path = store.save(image, "a", NOW)
    assert path.parent == Path.home() / "data" / "sdxl-lightning" / "pictures"
    assert store.note is not None
    assert str(path.parent) in store.note
    assert "Not a directory" in store.note


@pytest.mark.parametrize("folder", ["~nobody-of-that-name/a", "/dev/null/a", "/proc/a", "a\udcff"])
def test_a_folder_that_cannot_be_written_is_named_with_the_cure(folder: str) -> None:
    with pytest.raises(StorageError, match=r"cannot be written: .*--output-dir"):
        Store(Path(folder)).check()


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path, image: GeneratedImage) -> None:
    store = Store(tmp_path / "pictures")
    store.save(image, "a", NOW).unlink()
    (tmp_path / "pictures").rmdir()
    assert store.save(image, "b", NOW).exists()


def test_a_full_disk_is_a_clear_error_and_leaves_no_half_file(tmp_path: Path) -> None:
    script = f"""
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from PIL import Image
from sdxl_lightning_mcp import Parameters, StorageError
from sdxl_lightning_mcp.image import encode
from sdxl_lightning_mcp.store import Store
wish = dict(model="mini", checkpoint="c", prompt="p", negative_prompt="", seed=1, width=8,
            height=8, guidance=0, steps=1)
image = encode(Image.effect_noise((512, 512), 99).convert("RGB"), Parameters(**wish),
               datetime.now(UTC))
try:
    Store(Path({str(tmp_path)!r})).save(image, "a", datetime.now(UTC))
except StorageError as error:
    print(error)
    sys.exit(0)
sys.exit("it was written")
"""

    def files_end_at_4_kb() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    ended = subprocess.run(
        [sys.executable, "-c", script],
        preexec_fn=files_end_at_4_kb,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "File too large" in ended.stdout
    assert "free some space" in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_run_ids_sort_by_time_and_are_version_7() -> None:
    ids = [new_run_id() for _ in range(3)]
    assert all(
        re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", i)
        for i in ids
    )
    assert [i[:8] for i in ids] == sorted(i[:8] for i in ids)
    assert len(set(ids)) == 3


def test_what_killed_processes_left_unfinished_is_swept_and_nothing_else(tmp_path: Path) -> None:
    old, young = (tmp_path / f".{uuid.uuid4().hex}.part" for _ in range(2))
    others = [tmp_path / name for name in (".notes.part", "picture.part", "old.jpg")]
    for path in (old, young, *others):
        path.write_bytes(b"x")
    for path in (old, *others):
        os.utime(path, (0, 0))
    Store(tmp_path).sweep()
    assert {*tmp_path.iterdir()} == {young, *others}
