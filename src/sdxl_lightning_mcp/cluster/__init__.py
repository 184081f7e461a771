"""The same server on Ray Serve: replicas draw, and one ingress answers."""
