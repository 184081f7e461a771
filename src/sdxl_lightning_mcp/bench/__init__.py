"""How fast this machine draws: through the public API, through MCP, and beside diffusers."""
