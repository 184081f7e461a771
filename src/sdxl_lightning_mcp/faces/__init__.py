"""Ways in; a new face is one new file."""
