"""What an MCP client does: start the server, call its tool, keep the preview."""

import base64
import sys

import anyio
from mcp import Client, StdioServerParameters

# Without --private the engine stays for a while, for whoever asks next.
SERVER = StdioServerParameters(
    command=sys.executable, args=["-m", "sdxl_lightning_mcp", "--private"]
)


async def main() -> None:
    """Draws one picture and tells how far it is on the way."""

    async def tell(done: float, total: float | None, message: str | None) -> None:
        print(f"{done:.0f} of {total:.0f}: {message}")

    async with Client(SERVER) as client:
        result = await client.call_tool(
            "generate_image",
            {"prompt": "a starry night over the mountains", "seed": 7},
            progress_callback=tell,
        )
        # The first picture may wait for weights to be fetched: then there is an id to wait with.
        while not result.is_error and result.content[0].type != "image":
            run = result.meta["sdxl-lightning-mcp/run"]
            result = await client.call_tool("get_image", {"id": run["id"]}, progress_callback=tell)
    if result.is_error:
        raise SystemExit(result.content[0].text)
    preview, text, link = result.content
    with open("preview.jpg", "wb") as file:
        file.write(base64.b64decode(preview.data))
    print(text.text)
    print(link.uri)


anyio.run(main)
