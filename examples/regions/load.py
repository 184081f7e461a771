"""Callers and agents who ask a balancer for pictures, and what they are told."""

import time
from collections import defaultdict
from dataclasses import dataclass, field

import anyio
import httpx2
from mcp import Client, MCPError

RUNS = "/v1/models/mini/runs"
WISH = {"prompt": "the sea at sunset with a sailboat", "width": 512, "height": 512, "steps": 1}
# How often a caller repeats a request that failed, with the same key, as programs do.
ATTEMPTS = 10


@dataclass
class Load:
    """Callers and agents who ask one after another, and what they were told."""

    name: str
    url: str
    seconds: list[float] = field(default_factory=list[float])
    failed: list[str] = field(default_factory=list[str])
    told: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    calls: int = 0
    lost: int = 0
    begun: int = 0
    # When each region last answered: seconds of `time.monotonic`.
    heard: dict[str, float] = field(default_factory=dict[str, float])
    stopped: bool = False
    timed: bool = True

    async def caller(self, client: httpx2.AsyncClient) -> None:
        """Asks for runs by REST, each with a key of its own."""
        while not self.stopped:
            self.begun += 1
            key, begun = f"{self.name} {self.begun}".replace(" ", "-"), time.perf_counter()
            for _ in range(ATTEMPTS):
                if run_id := await self._run(client, key):
                    self.told[key].add(run_id)
                    break
                await anyio.sleep(0.5)
            else:
                self.told.pop(key, None)
                self.lost += 1
            self._took(begun)

    async def _run(self, client: httpx2.AsyncClient, key: str) -> str | None:
        """The id of a run that has succeeded; None, and a word on it, where it did not."""
        headers = {"Idempotency-Key": key, "Prefer": "wait=20"}
        try:
            answer = await client.post(
                RUNS, json={"input": WISH, "client_ref": key}, headers=headers
            )
            while answer.status_code == 202 or (
                answer.is_success and answer.json()["status_code"] in ("queued", "running")
            ):
                self.told[key].add(answer.json()["id"])
                await anyio.sleep(0.2)
                answer = await client.get(answer.json()["links"]["self"])
        except httpx2.HTTPError as error:
            self.failed.append(repr(error))
            return None
        if answer.is_success and answer.json()["status_code"] == "succeeded":
            self.heard[answer.headers["x-region"]] = time.monotonic()
            return answer.json()["id"]
        self.failed.append(f"{answer.status_code} {answer.text[:200]}")
        return None

    async def agent(self, agent: Client) -> None:
        """Calls the tool over MCP; a call has no key, and is not repeated."""
        while not self.stopped:
            begun = time.perf_counter()
            self.calls += 1
            try:
                result = await agent.call_tool("generate_image", WISH)
                if result.is_error or result.content[0].type != "image":
                    raise ValueError(result.content)
            except (MCPError, httpx2.HTTPError, ValueError) as error:
                self.failed.append(repr(error))
                self.lost += 1
            self._took(begun)

    def _took(self, begun: float) -> None:
        if self.timed:
            self.seconds.append(time.perf_counter() - begun)
