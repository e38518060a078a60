"""Dashboards and alerts: as their lists say, readable for what reads them, and told of in the docs."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from typer.testing import CliRunner

from deployments.metrics import METRICS
from serve_app.cli.main import app
from serve_app.observability.alerts import ALERTS
from serve_app.observability.boards import BOARDS
from serve_app.observability.dashboards import dashboard, files
from serve_app.observability.queries import STEP
from serve_app.observability.tables import alerts_table, metrics_tables

ROOT = Path(__file__).parents[1]
MADE = ROOT / "k8s" / "monitoring"
TEXT = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")

QUERIES = [
    *(
        query.expression
        for board in BOARDS
        for _, row in board.rows
        for panel in row
        for query in panel.queries
    ),
    *(alert.expression for alert in ALERTS),
    *re.findall(r"^```promql\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL),
]


def anchors(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", files(), ids=str)
def test_files_are_as_the_lists_say(path: Path) -> None:
    assert (MADE / path).read_text(encoding="utf-8") == files()[path], "run `asr-serve dashboards`"


def test_no_dashboard_is_left_over() -> None:
    made = {path.name for path in files() if path.suffix == ".json"}
    assert {path.name for path in (MADE / "dashboards").iterdir()} == made
    listed = yaml.safe_load((MADE / "kustomization.yaml").read_text())["configMapGenerator"][0]["files"]
    assert {Path(file).name for file in listed} == made


def test_the_command_writes_what_is_checked_in(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["dashboards", "--output", str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    for path, content in files().items():
        assert (tmp_path / "new" / path).read_text(encoding="utf-8") == content
        assert path.name in result.output


def test_a_directory_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(app, ["dashboards", "--output", str(tmp_path / "file")])
    assert result.exit_code == 1
    assert "cannot be written to" in result.output


@pytest.mark.parametrize("query", QUERIES)
def test_prometheus_can_read_it(query: str) -> None:
    promql_parser.parse(query.replace(STEP, "1m"))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Prometheus' promtool")
def test_promtool_takes_the_rules() -> None:
    command = ["promtool", "check", "rules", str(MADE / "rules.yaml")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


STAGE = 'application="asr",deployment="Vad"'
FIRING = {
    "AsrNotScraped": {"up": "1x60"},
    "AsrStageDown": {f"ray_serve_deployment_status{{{STAGE}}}": "2x60"},
    "AsrReplicasMissing": {
        f"ray_serve_autoscaling_target_replicas{{{STAGE}}}": "3x60",
        f"ray_serve_deployment_replica_healthy{{{STAGE}}}": "1x60",
    },
    "AsrReplicaRestarts": {
        f"ray_serve_autoscaling_target_replicas{{{STAGE}}}": "1x60",
        f"ray_serve_deployment_replica_starts_total{{{STAGE}}}": "1+1x60",
    },
    "AsrCallsLost": {'ray_asr_lost_calls_total{stage="Vad"}': "0+2x60"},
    "AsrQueueOld": {f"ray_asr_oldest_wait_seconds{{{STAGE}}}": "40x60"},
    "AsrLiveLag": {f"ray_asr_stage_lag_seconds{{{STAGE}}}": "3x60"},
    "AsrFinalsLate": {
        'ray_asr_live_final_after_end_seconds_bucket{le="5"}': "0x60",
        'ray_asr_live_final_after_end_seconds_bucket{le="10"}': "0+1x60",
        'ray_asr_live_final_after_end_seconds_bucket{le="+Inf"}': "0+1x60",
    },
    "AsrReplays": {'ray_asr_live_replays_total{protocol="nls"}': "0+2x60"},
    "AsrRefusals": {
        'ray_asr_errors_total{error="overloaded"}': "0+1x60",
        'ray_asr_requests_total{outcome="refused"}': "0+10x60",
    },
    "AsrFailures": {
        'ray_asr_requests_total{outcome="failed"}': "0+1x60",
        'ray_asr_requests_total{outcome="ok"}': "0+50x60",
    },
    "AsrWrongKeys": {'ray_asr_errors_total{error="unauthenticated"}': "0+600x60"},
    "AsrSlow": {
        f"ray_asr_busy_seconds_total{{{STAGE}}}": "0+6x1500 9000+30x60",
        f"ray_asr_audio_seconds_total{{{STAGE}}}": "0+100x1560",
    },
    "AsrJobsLate": {"ray_asr_jobs_oldest_seconds": "4000x60"},
    "AsrJobsFail": {
        'ray_asr_jobs_ended_total{status="failed"}': "0+1x60",
        'ray_asr_jobs_ended_total{status="completed"}': "0+2x60",
    },
    "AsrWebhooksGivenUp": {'ray_asr_webhooks_total{outcome="given_up"}': "0x50 1x10"},
    "AsrEdgeNodeDown": {
        'haproxy_server_status{proxy="nodes",server="node1",state="UP",instance="a"}': "0x60",
        'haproxy_server_status{proxy="nodes",server="node1",state="DOWN",instance="a"}': "1x60",
    },
    "AsrCertificateEnds": {"ray_asr_certificate_expiry_timestamp_seconds": "864000x60"},
    "AsrDiskFull": {'ray_node_disk_utilization_percentage{instance="a"}': "91x60"},
    "AsrMemoryFull": {
        'ray_node_mem_used{instance="a"}': "95x60",
        'ray_node_mem_total{instance="a"}': "100x60",
    },
}
"""What makes each alert fire, by the minute, in the notation of ``promtool test rules``."""

CALM = {"AsrReplicaRestarts": (f"ray_serve_deployment_replica_starts_total{{{STAGE}}}", "1x60")} | {
    name: (next(iter(given)), "0x60")
    for name, given in FIRING.items()
    if name in {"AsrCallsLost", "AsrQueueOld", "AsrLiveLag", "AsrRefusals", "AsrFailures", "AsrJobsFail"}
}
"""For some of them, what makes them stop: another course of one of these series."""


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Prometheus' promtool")
def test_each_alert_can_be_raised(tmp_path: Path) -> None:
    assert FIRING.keys() == {alert.name for alert in ALERTS}
    expected = [(name, given, True) for name, given in FIRING.items()]
    expected += [(name, {**FIRING[name], series: course}, False) for name, (series, course) in CALM.items()]
    of_name = {alert.name: alert.expression for alert in ALERTS}
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": series, "values": values} for series, values in given.items()],
            "promql_expr_test": [
                {
                    "expr": f"count({of_name[name]})",
                    "eval_time": "26h" if name == "AsrSlow" else "1h",
                    "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                }
            ],
        }
        for name, given, fires in expected
    ]
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(MADE / "rules.yaml")], "tests": tests}))
    result = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_both_forms_of_the_rules_are_the_same() -> None:
    plain = yaml.safe_load((MADE / "rules.yaml").read_text())
    for_operator = yaml.safe_load((MADE / "alerts.yaml").read_text())
    assert for_operator["kind"] == "PrometheusRule"
    assert for_operator["spec"]["groups"] == plain["groups"]
    assert [rule["alert"] for rule in plain["groups"][0]["rules"]] == [alert.name for alert in ALERTS]


def test_each_metric_has_a_chart_or_an_alert() -> None:
    """What nobody looks at need not be counted."""
    asked = " ".join(QUERIES)
    unseen = [m.name for m in METRICS if not re.search(rf"\b{m.exported}(_bucket|_count)?\b", asked)]
    assert unseen == []


def test_no_mean_is_taken_of_a_histogram() -> None:
    """Ray exports no exact sums."""
    names = "|".join(metric.exported for metric in METRICS if metric.kind == "histogram")
    assert [query for query in QUERIES if re.search(rf"\b({names})_sum\b", query)] == []


def test_charts_do_not_overlap() -> None:
    for board in BOARDS:
        taken: set[tuple[int, int]] = set()
        made: dict[str, Any] = json.loads(json.dumps(dashboard(board)))
        for panel in made["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            assert max(x for x, _ in cells) < 24
            taken |= cells
        assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"])


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_alerts_lead_to_the_runbook(alert: Any) -> None:
    assert alert.anchor in anchors(ROOT / "docs" / "runbook.md")


def test_labels_in_alerts_are_in_their_expressions() -> None:
    for alert in ALERTS:
        for label in re.findall(r"\$labels\.(\w+)", alert.summary + alert.description):
            # Labels of a scrape are on each series that nothing sums up.
            is_kept = label == "instance" and " by " not in alert.expression
            assert is_kept or re.search(rf"by \([^)]*\b{label}\b", alert.expression), (alert.name, label)


def test_the_document_has_all_metrics_and_alerts() -> None:
    for heading, table in metrics_tables().items():
        assert table in TEXT, f"the table of {heading}: run python -m serve_app.observability.tables"
    assert alerts_table() in TEXT


def test_metrics_are_named_as_prometheus_wants() -> None:
    names = [metric.name for metric in METRICS]
    assert len({*names}) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"asr_[a-z0-9_]+", metric.name)
        assert not metric.name.endswith("_total"), "Ray adds that itself"
        assert (metric.kind == "histogram") == bool(metric.buckets), metric.name
        assert [*metric.buckets] == sorted({*metric.buckets}), metric.name
        zeros = metric.zeros or {}
        assert all({*zeros[tag]} <= {*metric.tags[tag]} or not metric.tags[tag] for tag in zeros), metric.name
