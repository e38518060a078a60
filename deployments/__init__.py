"""Ray Serve deployments: thin shells over the engines in :mod:`deployments.engines`."""
