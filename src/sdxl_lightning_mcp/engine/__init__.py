"""How a run is carried out; the only folder that imports torch or diffusers."""
