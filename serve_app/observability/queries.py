"""PromQL, made of metrics."""

from deployments.metrics import Metric

STEP = "$__rate_interval"
"""What Grafana puts there is never shorter than four scrapes."""


def total(metric: Metric, by: str = "deployment", only: str = "") -> str:
    """A gauge, summed over replicas."""
    return f"sum by ({by}) ({_selected(metric.exported, only)})"


def largest(metric: Metric, by: str = "deployment", only: str = "") -> str:
    """A gauge, of the replica where it is largest."""
    return f"max by ({by}) ({_selected(metric.exported, only)})"


def rate(metric: Metric, by: str = "deployment", only: str = "", over: str = STEP) -> str:
    """How fast a counter grows per second, over all replicas; ``by=""``: as one number."""
    return _sum(by, f"rate({_selected(metric.exported, only)}[{over}])")


def growth(metric: Metric, by: str = "deployment", only: str = "", over: str = STEP) -> str:
    """By how much a counter grew in a time."""
    return _sum(by, f"increase({_selected(metric.exported, only)}[{over}])")


def events(metric: Metric, by: str = "deployment", over: str = STEP) -> str:
    """Values of a histogram per second."""
    return _sum(by, f"rate({metric.exported}_count[{over}])")


def quantile(share: float, metric: Metric, by: str = "deployment", over: str = STEP) -> str:
    """The value that a ``share`` of those of a histogram is below."""
    groups = f"le, {by}" if by else "le"
    return f"histogram_quantile({share:g}, sum by ({groups}) (rate({metric.exported}_bucket[{over}])))"


def ratio(upper: str, lower: str) -> str:
    """One by the other; nothing where that is zero."""
    return f"{upper} / ({lower} > 0)"


def _sum(by: str, what: str) -> str:
    return f"sum by ({by}) ({what})" if by else f"sum({what})"


def _selected(name: str, only: str) -> str:
    return f"{name}{{{only}}}" if only else name
