"""Model backends: one file each, behind the interfaces of :mod:`deployments.engines.base`. No Ray here."""
