"""``/admin``: what runs and how much there is to do, for whoever runs the service."""
