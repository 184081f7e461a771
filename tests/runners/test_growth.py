"""Memory over many pictures."""

from pathlib import Path

import anyio
import numpy as np
import psutil
import pytest
from support import mini_runner, workers

from sdxl_lightning_mcp.request import Parameters

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(1800)]

PICTURES = 500
# Until allocators and caches have what they keep.
WARM = 100


async def test_neither_worker_nor_server_grows_over_five_hundred_pictures(
    tmp_path: Path, parameters: Parameters
) -> None:
    small = parameters.model_copy(update={"width": 256, "height": 256, "steps": 1})
    memory: dict[str, list[int]] = {"server": [], "worker": []}
    with anyio.fail_after(1800):
        async with mini_runner(tmp_path) as runner:
            for seed in range(PICTURES):
                wish = {"seed": seed, "prompt": f"a red circle number {seed}"}
                run = await runner.submit(small.model_copy(update=wish))
                path = await run.finished()
                path.unlink()
                memory["server"].append(psutil.Process().memory_info().rss)
                memory["worker"].append(workers()[0].memory_info().rss)
    # Bytes a picture; a JPEG that was kept would be 11 kB and more.
    slopes = {
        name: np.polyfit(np.arange(PICTURES - WARM), sizes[WARM:], 1)[0]
        for name, sizes in memory.items()
    }
    assert max(slopes.values()) < 5e3, slopes
