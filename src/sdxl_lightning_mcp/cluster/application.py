"""The Serve application: one ingress, and a replica for each device that the cluster gives."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.environment import load_settings
from sdxl_lightning_mcp.errors import SettingsError
from sdxl_lightning_mcp.faces.http.serving import LAST_SECONDS
from sdxl_lightning_mcp.server import choose_model
from sdxl_lightning_mcp.settings import LOCAL, Settings, Speed

HEALTH: Mapping[str, float] = {"health_check_period_s": 1.0, "health_check_timeout_s": 5.0}
# Serve's own lines: what it does of itself is seldom worth one.
LOGGING: Mapping[str, Any] = {"log_level": "WARNING", "enable_access_log": False}
# Requests at once, most of which wait for runs or watch them; and how many may wait for that.
MOST_REQUESTS, MOST_WAITING = 10_000, 1_000
# On a GPU, as the device would choose it; Serve needs to know beforehand.
BATCH_OF_GPU = 8
# With more runs than that for each, another replica is wanted, as long as there is a device.
RUNS_OF_REPLICA = 2.0
UPSCALE_SECONDS = 3.0
CORES_OF_GPU = 4.0


@dataclass(frozen=True)
class Share:
    """What of the cluster replicas get: at most so many, each with a device, GPUs and cores."""

    replicas: int
    device: str
    gpus: int
    cores: float


def app(arguments: Mapping[str, str]) -> Any:
    """What `serve run sdxl_lightning_mcp.cluster.application:app model=sd-xl-lightning` runs.

    It looks at the cluster that is joined; where none is yet, at that of this machine or of
    RAY_ADDRESS.

    Args:
        arguments: Settings by their names; those of the environment hold too.

    Raises:
        SettingsError: One of them is impossible, or cannot be had on this cluster.
    """
    settings = load_settings(None, **{"ray": "auto", **arguments})
    ray: Any = importlib.import_module("ray")
    if not ray.is_initialized():
        ray.init(address="auto", namespace="serve")
    share = share_of(settings, ray.nodes())
    return application(settings, choose_model(settings), share)


def application(settings: Settings, model: Model, share: Share) -> Any:
    """The ingress, bound to its replicas."""
    from sdxl_lightning_mcp.cluster.ingress import Ingress

    serve: Any = importlib.import_module("ray.serve")
    return serve.deployment(
        serve.ingress()(Ingress),
        name="ingress",
        # One: it has the record, and whoever follows a run asks where that is under way. Where it
        # dies, the next one goes on with what was unfinished.
        num_replicas=1,
        max_ongoing_requests=MOST_REQUESTS,
        max_queued_requests=MOST_WAITING,
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        graceful_shutdown_timeout_s=LAST_SECONDS,
        # Always on the same machine, where the record is.
        ray_actor_options={"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}},
        logging_config=LOGGING,
        **HEALTH,
    ).bind(settings, model, replicas(settings, model, share))


def replicas(settings: Settings, model: Model, share: Share) -> Any:
    """The deployment that draws: `Replica`, as often as there are devices and work for them."""
    from sdxl_lightning_mcp.runners.replica import Replica

    serve: Any = importlib.import_module("ray.serve")
    batch = settings.max_batch or (BATCH_OF_GPU if share.gpus else 1)
    if settings.speed is Speed.EXACT:
        batch = 1
    idle = settings.idle_minutes * 60
    return serve.deployment(
        Replica,
        name="replica",
        # One run more may wait at a device's door, where no other device could take it sooner.
        max_ongoing_requests=batch + (share.replicas == 1),
        # The ingress alone asks, and has the bound; what it takes up again must not be refused.
        max_queued_requests=-1,
        autoscaling_config={
            "min_replicas": 1 if idle else share.replicas,
            "initial_replicas": share.replicas,
            "max_replicas": share.replicas,
            "target_ongoing_requests": RUNS_OF_REPLICA,
            "upscale_delay_s": UPSCALE_SECONDS,
            "downscale_delay_s": idle,
        },
        ray_actor_options={"num_cpus": share.cores, "num_gpus": share.gpus},
        logging_config=LOGGING,
        **HEALTH,
    ).bind(
        model,
        share.device,
        speed=settings.speed,
        max_batch=batch,
        idle_seconds=idle or None,
        log_level=settings.log_level,
        preview_bytes=settings.preview_bytes,
    )


def share_of(settings: Settings, nodes: Sequence[Mapping[str, Any]]) -> Share:
    """What of a cluster's nodes the replicas get, by the devices that the settings name.

    Raises:
        SettingsError: They are not in this cluster.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in alive))
    cores = [node.get("CPU", 0.0) for node in alive]
    names = settings.device.split(",")
    if settings.ray != LOCAL:
        _check_names(settings, gpus)
    if gpus and names[0] not in ("cpu", "mps"):
        return Share(gpus, "cuda", 1, min(CORES_OF_GPU, sum(cores) // gpus))
    # So that several fit on each machine, and each onto the smallest; by it Ray also sets how many
    # threads there are.
    each = max(1.0, min(sum(cores) // len(names), *cores))
    return Share(len(names), names[0], 0, each)


def _check_names(settings: Settings, gpus: int) -> None:
    """On other machines a device is known by its kind alone, and a model not by this one's GPU."""
    if ":" in settings.device or settings.device == "mps":
        raise SettingsError(
            f"--device {settings.device} is one of this machine; on a cluster Ray chooses. "
            "Say cuda, cpu or auto."
        )
    if settings.device == "cuda" and not gpus:
        raise SettingsError("--device cuda: no node of this cluster has a GPU.")
    if settings.model == "auto":
        raise SettingsError(
            "--model auto looks at this machine's GPU; on a cluster say which: --model mini, "
            "--model sd-xl-lightning."
        )
