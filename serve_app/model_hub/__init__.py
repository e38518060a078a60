"""Fetches models from their hubs, moves them to sites without a network, checks and removes them."""
