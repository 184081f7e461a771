"""A model of SDXL-Lightning's size whose weights are random numbers: nothing is downloaded.

Speed and memory do not depend on what the numbers are.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs

from sdxl_lightning_mcp.errors import StorageError

# The name says to the engine how such weights are sampled: four steps, without guidance.
NAME = "random-lightning-4step"
NEEDED = 7.1e9


def random_weights(tell: Callable[[str], None], folder: Path | None = None) -> Path:
    """Where the model lies, in diffusers' layout; written once, which takes a minute and 7 GB.

    Args:
        tell: Is told that it is being written.
        folder: Where models of this kind are kept; else the person's cache folder.

    Raises:
        StorageError: It cannot be written.
    """
    folder = folder or Path(platformdirs.user_cache_dir("sdxl-lightning-mcp"))
    target = folder / NAME
    if target.is_dir():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < NEEDED:
            raise StorageError(f"{folder} has no room for 7.1 GB of random weights. Free some.")
        tell(f"writing 7 GB of random weights, once: {target}")
        from sdxl_lightning_mcp.engine.synthetic import REAL, write_base

        with tempfile.TemporaryDirectory(dir=folder, prefix=".random-") as part:
            write_base(Path(part) / NAME, size=REAL, safe_vae=True)
            (Path(part) / NAME).replace(target)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"{target} cannot be written: {error.strerror or error}. Name another cache folder "
            "with XDG_CACHE_HOME."
        ) from error
    return target
