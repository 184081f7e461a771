"""Operation: is it alive, is it ready, what does it measure, and a line of log for every run."""

import json
import logging
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.errors import SdxlLightningError
from sdxl_lightning_mcp.faces.http.problems import Refusal
from sdxl_lightning_mcp.faces.http.replies import ReadyReply
from sdxl_lightning_mcp.faces.http.site import Site
from sdxl_lightning_mcp.faces.http.spec import answers
from sdxl_lightning_mcp.run import Run, Status
from sdxl_lightning_mcp.runners.base import Runner

log = logging.getLogger("sdxl_lightning_mcp.run")
# The buckets of OpenTelemetry's conventions for generative models, in seconds.
BUCKETS = tuple(0.01 * 2**power for power in range(14))


class JsonLines(logging.Formatter):
    """A line of log as a JSON object; what a record has as `fields` stands beside its message."""

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter.format`."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class Metrics(Collector):
    """What Prometheus is told; labels never hold prompts or names of callers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._runner: Runner | None = None
        self._model = ""
        self._runs = Counter(
            "sdxl_runs", "Runs that have ended", ["status", "face"], registry=self.registry
        )
        self._pictures = Counter("sdxl_images", "Pictures made", registry=self.registry)
        self._pixels = Counter("sdxl_pixels", "Pixels of these pictures", registry=self.registry)
        self.refused = Counter(
            "sdxl_requests_refused", "Requests that were refused", ["code"], registry=self.registry
        )
        self._total = Histogram(
            "sdxl_run_seconds",
            "From a run's acceptance to its end, of those that succeeded",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._queue = Histogram(
            "sdxl_queue_seconds", "How long runs waited", buckets=BUCKETS, registry=self.registry
        )
        self._compute = Histogram(
            "sdxl_compute_seconds",
            "From a run's first moment on the device to its picture on disk",
            buckets=BUCKETS,
            registry=self.registry,
        )

    def watch(self, runner: Runner, model: Model) -> None:
        """From now on also tells what the runner is doing."""
        self._runner, self._model = runner, model.slug
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """What the runner is doing now."""
        if self._runner is None:
            return
        status = self._runner.status()
        yield GaugeMetricFamily("sdxl_runs_waiting", "Runs in the queue", status.waiting)
        yield GaugeMetricFamily("sdxl_runs_running", "Runs on devices", status.running)
        ready = GaugeMetricFamily("sdxl_device_ready", "1 where it is", labels=["device"])
        for number, device in enumerate(status.devices):
            ready.add_metric([f"{number}:{device.name}"], float(device.ready))
        yield ready
        yield InfoMetricFamily("sdxl_model", "What is served", {"model": self._model})

    def ended(self, run: Run) -> None:
        """Counts a run that has ended, and logs it in one line."""
        face = str(run.origin.context.get("face", "mcp"))
        self._runs.labels(run.status, face).inc()
        if run.started_at is not None:
            self._queue.observe((run.started_at - run.created).total_seconds())
        if run.status is Status.SUCCEEDED:
            self._pictures.inc()
            self._pixels.inc(run.parameters.width * run.parameters.height)
            self._compute.observe(run.duration_ms / 1000)
            if run.completed_at is not None:
                self._total.observe((run.completed_at - run.created).total_seconds())
        log.info("run", extra={"fields": _fields(run, face)})


class Operation:
    """The routes for those who keep the server running."""

    def __init__(self, site: Site, metrics: Metrics) -> None:
        self._site, self._metrics = site, metrics

    def router(self) -> APIRouter:
        """The routes, with what the OpenAPI file says of them."""
        router = APIRouter(tags=["operation"])
        route = router.add_api_route
        plain: dict[str, Any] = {"response_class": Response}
        route(
            "/livez",
            self.livez,
            operation_id="livez",
            summary="Whether the process answers",
            responses=answers("text/plain", 200),
            **plain,
        )
        route(
            "/readyz",
            self.readyz,
            operation_id="readyz",
            summary="Whether runs would be carried out now",
            responses=answers(ReadyReply, 200, refused=(503,)),
        )
        route(
            "/metrics",
            self.metrics,
            operation_id="metrics",
            summary="Figures for Prometheus",
            responses=answers("text/plain", 200),
            **plain,
        )
        return router

    async def livez(self) -> Response:
        """Answers as long as the process does."""
        return Response("ok\n", media_type="text/plain")

    async def readyz(self) -> Response:
        """Ready is: a device is, there is room on the disk, and the server is not about to end."""
        site = self._site
        site.watched = time.monotonic()
        if site.runner.leaving.is_set():
            raise _not_ready("closing", "The server is about to end.")
        status = site.runner.status()
        if not any(device.ready for device in status.devices):
            raise _not_ready("loading", f"No device is ready: {status.state}.")
        free = await anyio.to_thread.run_sync(self._free)
        if free < site.settings.disk_gigabytes * 1e9:
            raise _not_ready("disk_full", f"{free / 1e9:.2f} GB are free for pictures.")
        return JSONResponse({"ready": True, "state": status.state})

    async def metrics(self, _: Request) -> Response:
        """All figures, in Prometheus' text format."""
        content = generate_latest(self._metrics.registry)
        return Response(content, headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _free(self) -> float:
        try:
            return shutil.disk_usage(Path(self._site.record.store.check())).free
        except SdxlLightningError:
            return 0.0


def _not_ready(code: str, detail: str) -> Refusal:
    return Refusal(503, code, detail, headers={"Retry-After": "5"})


def _fields(run: Run, face: str) -> dict[str, Any]:
    """What is logged of a run: no prompt, which is its caller's."""
    waited = run.started_at and round((run.started_at - run.created).total_seconds() * 1000)
    return {
        "run": run.id,
        "status": str(run.status),
        "face": face,
        "owner": run.origin.owner,
        "request_id": run.origin.context.get("request_id"),
        "model": run.parameters.model,
        "size": f"{run.parameters.width}x{run.parameters.height}",
        "steps": run.parameters.steps,
        "waited_ms": waited,
        "duration_ms": run.duration_ms,
        "bytes": run.size,
        "error": run.error and run.error.code,
    }
