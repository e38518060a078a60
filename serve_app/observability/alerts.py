"""When somebody should look: one list, of which Prometheus' rules are made."""

from dataclasses import dataclass
from typing import Any, Literal

import yaml

from deployments import metrics as m
from serve_app.observability.queries import growth, largest, quantile, rate, ratio

RUNBOOK = "docs/runbook.md"

_MADE = (
    "# Made by `asr-serve dashboards` of the list in serve_app/observability/alerts.py; change it there.\n"
)
_OVER = "5m"


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule.

    Attributes:
        expression: true as long as something is wrong; ``summary`` and ``description`` may name its labels.
        wait: how long it has to be true before anybody is told.
        severity: ``critical``: clients suffer now; ``warning``: they will.
        why: what the threshold is, and why that.
        anchor: section of the runbook.
    """

    name: str
    expression: str
    wait: str
    severity: Literal["critical", "warning"]
    summary: str
    description: str
    why: str
    anchor: str


_STAGE = "{{ $labels.deployment }}"

ALERTS = (
    Alert(
        "AsrNotScraped",
        f"absent({m.MAX_FILES.exported})",
        "5m",
        "critical",
        "Prometheus sees no ingress replica of asr-serve.",
        "Either the service is down, or its metrics port is not scraped: nothing else is watched either.",
        "An ingress replica exports its limits from its start on, so that there is always one.",
        "nothing-is-measured",
    ),
    Alert(
        "AsrStageDown",
        "max by (application, deployment) (ray_serve_deployment_status) <= 2",
        "2m",
        "critical",
        f"{_STAGE} is unhealthy.",
        "Serve calls the deployment unhealthy or could not deploy it (status {{ $value }}); requests that "
        "need it wait or fail.",
        "Status 1 is DEPLOY_FAILED and 2 UNHEALTHY. Two minutes: a replica that died is replaced sooner.",
        "a-stage-has-no-replica",
    ),
    Alert(
        "AsrReplicasMissing",
        "max by (application, deployment) (ray_serve_autoscaling_target_replicas) > "
        "(sum by (application, deployment) (ray_serve_deployment_replica_healthy) or "
        "max by (application, deployment) (ray_serve_autoscaling_target_replicas) * 0)",
        "10m",
        "warning",
        f"{_STAGE} has fewer replicas than it should.",
        "Replicas wait for a machine, a GPU or their model, or die while they load.",
        "Ten minutes: a new machine with a GPU and a large model takes five.",
        "replicas-do-not-come-up",
    ),
    Alert(
        "AsrReplicaRestarts",
        "sum by (application, deployment) (increase(ray_serve_deployment_replica_starts_total[30m])) > 6 "
        "and max by (application, deployment) "
        "(max_over_time(ray_serve_autoscaling_target_replicas[30m]) "
        "- min_over_time(ray_serve_autoscaling_target_replicas[30m])) < 2",
        "5m",
        "warning",
        f"Replicas of {_STAGE} die again and again.",
        "{{ $value | humanize }} starts in half an hour, while about as many replicas were wanted all "
        "the time.",
        "Six: a rolling update of a small deployment starts each replica once, and is no alarm.",
        "replicas-die",
    ),
    Alert(
        "AsrCallsLost",
        f"{growth(m.LOST_CALLS, 'stage', over='15m')} > 20",
        "0m",
        "warning",
        "Calls to {{ $labels.stage }} are lost and made again.",
        "{{ $value | humanize }} in a quarter of an hour. Clients do not notice as long as replicas come "
        "back.",
        "A replica that dies under load takes a batch or two with it; twenty calls are several replicas.",
        "replicas-die",
    ),
    Alert(
        "AsrQueueOld",
        f"{largest(m.OLDEST_WAIT, 'application, deployment')} > 30",
        "2m",
        "warning",
        f"Work waits for {_STAGE} for {{{{ $value | humanizeDuration }}}}.",
        "There is more to do than its replicas can, and autoscaling has come to its end.",
        "A request's item has priority after 5 s and a job's after 30 s; what is older is stuck behind "
        "those.",
        "work-waits-too-long",
    ),
    Alert(
        "AsrLiveLag",
        f"{largest(m.STAGE_LAG, 'application, deployment')} > 2",
        "2m",
        "critical",
        f"Live sessions wait {{{{ $value | humanize }}}} s for {_STAGE}.",
        "People see their words late. Sessions are more than the replicas can serve, or something slows "
        "them.",
        "A chunk is 0.6 s of audio: 2 s are three chunks behind, which does not mend by itself.",
        "live-text-comes-late",
    ),
    Alert(
        "AsrFinalsLate",
        f"{quantile(0.95, m.LIVE_FINAL_AFTER_END, '', _OVER)} > 5",
        "5m",
        "warning",
        "Live clients wait {{ $value | humanize }} s for the last text after they stop.",
        "One of twenty sessions waits so long: see which stage lags.",
        "5 s is where common clients give up.",
        "live-text-comes-late",
    ),
    Alert(
        "AsrReplays",
        f"{growth(m.LIVE_REPLAYS, 'protocol', over='15m')} > 20",
        "0m",
        "warning",
        "Live streams ({{ $labels.protocol }}) are lost and begun again.",
        "{{ $value | humanize }} in a quarter of an hour: replicas of ParaformerStreaming die or are "
        "replaced.",
        "A replica that is replaced on purpose moves its streams once; this is more than one busy replica.",
        "replicas-die",
    ),
    Alert(
        "AsrRefusals",
        ratio(rate(m.ERRORS, "", 'error="overloaded"', _OVER), rate(m.REQUESTS, "", over=_OVER)) + " > 0.05",
        "5m",
        "critical",
        "{{ $value | humanizePercentage }} of the requests are refused for lack of room.",
        "Queues or places are full. Clients are told to come again, and that adds to it.",
        "5 %: single refusals are how the service protects itself; a share of all means too small.",
        "clients-are-refused",
    ),
    Alert(
        "AsrFailures",
        ratio(rate(m.REQUESTS, "", 'outcome="failed"', _OVER), rate(m.REQUESTS, "", over=_OVER)) + " > 0.01",
        "5m",
        "critical",
        "{{ $value | humanizePercentage }} of the requests fail.",
        "The fault is the server's: its log has each of them by its request id.",
        "1 %: the aim is none, and one fault in a quiet night should wake nobody.",
        "requests-fail",
    ),
    Alert(
        "AsrWrongKeys",
        rate(m.ERRORS, "", 'error=~"unauthenticated|rate_limited"', _OVER) + " > 5",
        "10m",
        "warning",
        "{{ $value | humanize }} requests per second come with a wrong key, or above their limit.",
        "A client has lost its key, or somebody tries keys.",
        "5 per second for ten minutes are 3000 attempts; a client that retries politely makes fewer.",
        "clients-have-no-valid-key",
    ),
    Alert(
        "AsrSlow",
        ratio(
            rate(m.BUSY_SECONDS, "application, deployment", over="10m"),
            rate(m.AUDIO_SECONDS, "application, deployment", over="10m"),
        )
        + f" > 3 * ({rate(m.BUSY_SECONDS, 'application, deployment', over='1d')}"
        + f" / ({rate(m.AUDIO_SECONDS, 'application, deployment', over='1d')} > 0))"
        + f" and {rate(m.BUSY_SECONDS, 'application, deployment', over='10m')} > 0.1",
        "15m",
        "warning",
        f"{_STAGE} needs three times as long for its audio as usual.",
        "{{ $value | humanize }} s of work per second of audio. Something takes its cores or its GPU away.",
        "Three times its own mean of a day, and only where it works for more than 10 % of the time: small "
        "batches of a quiet service cost more per second.",
        "recognition-got-slow",
    ),
    Alert(
        "AsrJobsLate",
        f"max({m.JOBS_OLDEST.exported}) > 3600",
        "10m",
        "warning",
        "A job waits for {{ $value | humanizeDuration }}.",
        "More jobs come than the Jobs replicas work off, or those have stopped.",
        "An hour: jobs may wait, but who orders one looks for it before the day is over.",
        "jobs-pile-up",
    ),
    Alert(
        "AsrJobsFail",
        ratio(rate(m.JOBS_ENDED, "", 'status="failed"', "30m"), rate(m.JOBS_ENDED, "", over="30m"))
        + " > 0.2 and "
        + growth(m.JOBS_ENDED, "", 'status="failed"', "30m")
        + " > 5",
        "5m",
        "warning",
        "{{ $value | humanizePercentage }} of the jobs fail.",
        "`asr-serve jobs list --status failed` tells why.",
        "A fifth, and more than five: single jobs fail because of what was sent.",
        "jobs-pile-up",
    ),
    Alert(
        "AsrWebhooksGivenUp",
        growth(m.WEBHOOKS, "", 'outcome="given_up"', "1h") + " > 0",
        "0m",
        "warning",
        "Webhooks were given up.",
        "A receiver did not take the end of a job for 16 hours, or said that it is gone.",
        "Each is a client that waits for something that does not come.",
        "webhooks-do-not-arrive",
    ),
    Alert(
        "AsrEdgeNodeDown",
        'min by (instance, server) (haproxy_server_status{proxy="nodes", state="UP"}) == 0',
        "1m",
        "critical",
        "The edge {{ $labels.instance }} does not reach {{ $labels.server }}.",
        "Its requests go to other nodes, if there are any; else clients get 503.",
        "A node that is being replaced is away for seconds.",
        "the-edge-answers-503",
    ),
    Alert(
        "AsrCertificateEnds",
        f"({m.CERTIFICATE_END.exported} - time() < 14 * 86400) or "
        "(certmanager_certificate_expiration_timestamp_seconds - time() < 14 * 86400)",
        "1h",
        "warning",
        "A certificate ends in {{ $value | humanizeDuration }}.",
        "After that, clients that verify it cannot connect.",
        "Two weeks: cert-manager renews a month before, so that something is wrong by then.",
        "the-certificate-ends",
    ),
    Alert(
        "AsrDiskFull",
        "ray_node_disk_utilization_percentage > 90",
        "10m",
        "warning",
        "{{ $labels.instance }} has {{ $value | humanize }} % of its disk in use.",
        "At 95 % Ray stores no more objects there, uploads and jobs find no room, and logs end.",
        "90 %: Ray's own limit is 95 %.",
        "the-disk-is-full",
    ),
    Alert(
        "AsrMemoryFull",
        "ray_node_mem_used / ray_node_mem_total > 0.92",
        "5m",
        "warning",
        "{{ $labels.instance }} has {{ $value | humanizePercentage }} of its memory in use.",
        "Above 95 % Ray ends workers, among them replicas with live sessions.",
        "92 %: a little before that.",
        "memory-runs-out",
    ),
)


def rules() -> list[dict[str, Any]]:
    """All, as the ``groups`` of a Prometheus rule file."""
    return [{"name": "asr-serve", "rules": [_rule(alert) for alert in ALERTS]}]


def rules_file() -> str:
    """A file for ``rule_files`` of a Prometheus without an operator."""
    return _MADE + _yaml({"groups": rules()})


def prometheus_rule() -> str:
    """The same for the Prometheus operator: a ``PrometheusRule``."""
    return _MADE + _yaml(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {
                "name": "asr-serve",
                "labels": {"app.kubernetes.io/part-of": "asr-serve", "release": "prometheus"},
            },
            "spec": {"groups": rules()},
        }
    )


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expression,
        "for": alert.wait,
        "labels": {"severity": alert.severity},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook": f"{RUNBOOK}#{alert.anchor}",
        },
    }


def _yaml(content: dict[str, Any]) -> str:
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110))
