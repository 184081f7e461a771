"""`python -m sdxl_lightning_mcp` is the command `sdxl-lightning-mcp`."""

from sdxl_lightning_mcp.cli import main

if __name__ == "__main__":
    main()
