"""The library in three lines: load a model, call it, save the picture."""

import sdxl_lightning_mcp as sdxl

mini = sdxl.load("mini")
image = mini("the sea at sunset with a sailboat", seed=7)
print(image.save("sailboat.jpg"))
