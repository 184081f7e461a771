"""One worker for all servers of a person that have the same settings."""
