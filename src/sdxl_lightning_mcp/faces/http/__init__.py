"""The HTTP faces: MCP, the runs API, OpenAI's images API, pages, operation."""
