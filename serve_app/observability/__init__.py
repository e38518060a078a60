"""How the service is watched: what it counts of its clients, and the dashboards and alerts over that."""
