"""The command line with one more entry in the catalogue: the small repositories below a folder.

Adding a model is adding an entry: `python tests/launch.py FOLDER COMMAND...` does nothing more.
"""

import sys
from pathlib import Path

from repositories import small_model

from sdxl_lightning_mcp import cli
from sdxl_lightning_mcp.catalogue import CATALOGUE

if __name__ == "__main__":
    model = small_model(Path(sys.argv[1]), on_hub=True)
    CATALOGUE[model.slug] = model
    cli.main(sys.argv[2:])
