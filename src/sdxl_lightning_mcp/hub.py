"""Where weight files lie on this machine, how they get here, and whether they are the right ones.

Files from the hub live in huggingface_hub's own cache, shared with everything else that uses it.
"""

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sdxl_lightning_mcp.checkpoint import Repository, WeightFile
from sdxl_lightning_mcp.errors import WeightsError
from sdxl_lightning_mcp.hashes import sha256

log = logging.getLogger(__name__)

ATTEMPTS = 5
PART = ".sdxl-lightning-mcp.part"
PARTIAL_CONTENT = 206


@dataclass(frozen=True)
class Transfer:
    """How far files are fetched or checked: what is `doing` with which, `done` of `total` bytes."""

    doing: str
    file: WeightFile
    done: int
    total: int

    @property
    def share(self) -> float:
        """How much of it is done, from 0 to 1."""
        return self.done / self.total if self.total else 0.0

    def __str__(self) -> str:
        if self.done == 0:
            return f"{self.doing} {gigabytes(self.total)} of weights"
        # The numbers first: clients cut off what is long.
        amount = f"{gigabytes(self.done)} of {gigabytes(self.total)}"
        return f"{self.doing} {amount}: {self.file.path}"


Tell = Callable[[Transfer], None]


def locate(file: WeightFile) -> Path | None:
    """The file's path where it is on this disk; never touches the network."""
    if isinstance(file.source, Path):
        path = file.source / file.path
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(file.source.id, file.path, revision=file.source.revision)
    return Path(found) if isinstance(found, str) else None


def missing(files: Iterable[WeightFile]) -> list[WeightFile]:
    """Those of the files that are not on this disk."""
    return [file for file in files if locate(file) is None]


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to fetch."""
    from huggingface_hub import constants

    return constants.is_offline_mode()


def trouble(file: WeightFile, seconds: float) -> str | None:
    """Why the hub would not give a file of its own now; None where it would. Asks for its head."""
    import httpx2
    from huggingface_hub import get_hf_file_metadata, hf_hub_url  # pyright: ignore[reportUnknownVariableType]
    from huggingface_hub.errors import HfHubHTTPError

    assert isinstance(file.source, Repository)
    url = hf_hub_url(file.source.id, file.path, revision=file.source.revision)
    try:
        get_hf_file_metadata(url, timeout=seconds)
    except (httpx2.TransportError, HfHubHTTPError) as error:
        return _reason(file, error)
    return None


def size(files: Iterable[WeightFile]) -> int:
    """Bytes of these files together; of a person's own as they are on this disk."""
    return sum(_bytes(file) for file in files)


def _bytes(file: WeightFile) -> int:
    if file.bytes is None and (path := locate(file)):
        return path.stat().st_size
    return file.bytes or 0


# --- fetching ------------------------------------------------------------------------------


def fetch(files: Iterable[WeightFile], tell: Tell, pull: str) -> None:
    """Gets the files that are not here; what a broken fetch left is gone on with.

    Args:
        files: What is wanted.
        tell: Is told how far it is, some times a second.
        pull: What the person calls with `pull` to get these files, for the errors.

    Raises:
        WeightsError: A file cannot be got; its name and size, the reason and the cure.
    """
    wanted = missing(files)
    for file in wanted:
        if isinstance(file.source, Path):
            raise WeightsError(f"{file.source / file.path} is missing.{_cure(file, pull)}")
    if not wanted:
        return
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    if is_offline():
        raise WeightsError(
            f"{_naming(wanted)} not on this disk, and HF_HUB_OFFLINE forbids to fetch. "
            f"With a network: sdxl-lightning-mcp pull {pull}"
        )
    total = size(wanted)
    _check_room(cache, wanted)
    before = 0
    for file in wanted:
        start = before
        try:
            _fetch_one(
                file,
                cache,
                lambda done, f=file, b=start: tell(Transfer("fetching", f, b + done, total)),
            )
        except Exception as error:
            raise WeightsError(_explain(file, error, pull)) from error
        before += file.bytes or 0


def _fetch_one(file: WeightFile, cache: Path, tell: Callable[[int], None]) -> None:
    """Fetches one file into the cache: under another name until it is whole and right."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url  # pyright: ignore[reportUnknownVariableType]
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import WeakFileLock

    source = file.source
    assert isinstance(source, Repository)
    url = hf_hub_url(source.id, file.path, revision=source.revision)
    published = get_hf_file_metadata(url)
    if published.size != file.bytes:
        raise ValueError(f"it has {published.size} bytes there, expected {file.bytes}")
    folder = cache / repo_folder_name(repo_id=source.id, repo_type="model") / "blobs"
    folder.mkdir(parents=True, exist_ok=True)
    blob = folder / str(published.etag)
    # huggingface_hub begins anew after a break; a part under a name of ours is gone on with.
    part = blob.with_name(f"{blob.name}{PART}")
    # Also where another process has begun with the file, and this one waits for it.
    tell(0)
    with WeakFileLock(part.with_suffix(".lock")):
        if blob.exists() and not _has_hash(blob, file):
            blob.unlink()
        if not blob.exists():
            _fill(part, url, file, tell)
            if not _has_hash(part, file):
                part.unlink()
                raise ValueError("it came with other contents than published")
            part.replace(blob)
    hf_hub_download(source.id, file.path, revision=source.revision)


def _fill(part: Path, url: str, file: WeightFile, tell: Callable[[int], None]) -> None:
    """Appends to `part` until it has the file's size; a broken connection is taken up again."""
    import httpx2
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # pyright: ignore[reportUnknownVariableType]

    expected = file.bytes or 0
    failures = 0
    with part.open("ab") as written:
        while (have := written.tell()) < expected:
            headers = {
                **build_hf_headers(),
                "Accept-Encoding": "identity",
                "Range": f"bytes={have}-",
            }
            try:
                with get_session().stream(
                    "GET", url, headers=headers, follow_redirects=True, timeout=20
                ) as response:
                    hf_raise_for_status(response)
                    if have and response.status_code != PARTIAL_CONTENT:
                        written.truncate(0)
                    for chunk in response.iter_bytes():
                        written.write(chunk)
                        tell(written.tell())
                        failures = 0
            except (httpx2.TransportError, httpx2.StreamError):
                failures += 1
                if failures >= ATTEMPTS:
                    raise
                log.info("%s: the connection broke, going on", file)
        written.flush()
        os.fsync(written.fileno())


def _check_room(cache: Path, wanted: list[WeightFile]) -> None:
    """Refuses at once what cannot fit, rather than after gigabytes."""
    there = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    begun = sum(part.stat().st_size for part in cache.glob(f"models--*/blobs/*{PART}"))
    free, needed = shutil.disk_usage(there).free, size(wanted) - begun
    if free < needed:
        raise WeightsError(
            f"{_naming(wanted)} to be fetched, but {cache} has {free / 1e9:.1f} GB free. "
            "Free some space, or name another folder with HF_HOME."
        )


def _naming(files: list[WeightFile]) -> str:
    """The first of the files, how many more there are, and their size."""
    more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
    verb = "are" if more else "is"
    return f"{max(files, key=lambda f: f.bytes or 0)}{more} ({gigabytes(size(files))}) {verb}"


def _explain(file: WeightFile, error: Exception, pull: str) -> str:
    """One line: what could not be fetched, why, and what to do."""
    return (
        f"{file} ({gigabytes(file.bytes or 0)}) cannot be fetched: {_reason(file, error)}. "
        f"What is here already is kept; go on with: sdxl-lightning-mcp pull {pull}"
    )


def _reason(file: WeightFile, error: Exception) -> str:
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, httpx2.TransportError):
        reason = f"{constants.ENDPOINT} cannot be reached ({reason})"
    elif isinstance(error, GatedRepoError):
        assert isinstance(file.source, Repository)
        page = f"{constants.ENDPOINT}/{file.source.id}"
        reason = f"{page} wants your consent first; give it there, then: hf auth login"
    elif isinstance(error, HfHubHTTPError):
        reason = f"{constants.ENDPOINT} answered {error.response.status_code}"
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        reason = "the disk is full, free some space"
    return reason.rstrip(".")


def gigabytes(count: int) -> str:
    """A number of bytes for people."""
    if count >= 1e8:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


# --- verifying -----------------------------------------------------------------------------


def verify(files: Iterable[WeightFile], tell: Tell, pull: str = "") -> None:
    """Checks each file's presence, size and hash.

    A large file is hashed once; that it was found right is remembered with its size and time.

    Args:
        files: What is to be checked.
        tell: Is told which file is being checked.
        pull: What the person calls with `pull` to get these files, for the errors.

    Raises:
        WeightsError: Naming the first file that is missing or not the one expected.
    """
    files = tuple(files)
    total, done = size(files), 0
    for file in files:
        tell(Transfer("checking", file, done, total))
        path = locate(file)
        if path is None:
            raise WeightsError(f"{file} is missing.{_cure(file, pull)}")
        there = path.stat().st_size
        if file.bytes is not None and there != file.bytes:
            raise WeightsError(
                f"{path} has {there:,} bytes, expected {file.bytes:,}.{_cure(file, pull)}"
            )
        if not _has_hash(path, file):
            raise WeightsError(f"{path} has other contents than published.{_cure(file, pull)}")
        done += there


def _has_hash(path: Path, file: WeightFile) -> bool:
    return file.sha256 is None or sha256(path) == file.sha256


def remove_wrong(files: Iterable[WeightFile], tell: Tell) -> None:
    """Takes those files of the hub out of the cache that are not what was published."""
    for file in files:
        try:
            verify([file], tell)
        except WeightsError:
            if isinstance(file.source, Repository) and (path := locate(file)):
                log.warning("%s is not what was published and is fetched anew", path)
                path.resolve().unlink(missing_ok=True)
                path.unlink(missing_ok=True)


def _cure(file: WeightFile, pull: str) -> str:
    if isinstance(file.source, Repository):
        return f" Get it anew with: sdxl-lightning-mcp pull {pull}".rstrip()
    return " Install the package again." if file.sha256 else ""
