"""Where runs are carried out; a new place is one new file."""
