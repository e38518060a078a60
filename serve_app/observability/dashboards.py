"""Grafana's JSON of the dashboards, and the files of ``k8s/monitoring``.

Model: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

import json
from pathlib import Path
from typing import Any

from serve_app.observability.alerts import prometheus_rule, rules_file
from serve_app.observability.boards import BOARDS
from serve_app.observability.panels import Board, Panel

_COLUMNS, _PER_ROW, _HEIGHT = 24, 3, 8
_SCHEMA = 39
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_OWN_UNITS = {"x": "suffix:x"}


def dashboard(board: Board) -> dict[str, Any]:
    """A dashboard as Grafana (10 or later) imports it; its data source is chosen in it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for heading, row in board.rows:
        panels.append(_heading(heading, len(panels) + 1, top))
        top += 1
        for index, panel in enumerate(row):
            place = _place(index, top)
            panels.append(_chart(panel, len(panels) + 1, place))
        top += _HEIGHT * -(-len(row) // _PER_ROW)
    return {
        "uid": board.name,
        "title": board.title,
        "tags": ["asr-serve"],
        "editable": True,
        "schemaVersion": _SCHEMA,
        "version": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,
        "links": [
            {
                "type": "dashboards",
                "tags": ["asr-serve"],
                "title": "asr-serve",
                "asDropdown": True,
                "keepTime": True,
            }
        ],
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
            ]
        },
        "annotations": {"list": []},
        "panels": panels,
    }


def _heading(title: str, number: int, top: int) -> dict[str, Any]:
    place = {"h": 1, "w": _COLUMNS, "x": 0, "y": top}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _place(index: int, top: int) -> dict[str, int]:
    width = _COLUMNS // _PER_ROW
    row, column = divmod(index, _PER_ROW)
    return {"h": _HEIGHT, "w": width, "x": column * width, "y": top + row * _HEIGHT}


def _chart(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    names = "ABCDEFGH"
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {
                "unit": _OWN_UNITS.get(panel.unit, panel.unit),
                "min": 0,
                "custom": {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never"},
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": names[index],
                "datasource": _SOURCE,
                "editorMode": "code",
                "expr": query.expression,
                "legendFormat": query.legend,
                "range": True,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def files() -> dict[Path, str]:
    """The content of each file of ``k8s/monitoring`` that is made of the lists, by its path in there."""
    made = {
        Path("dashboards") / f"{board.name}.json": json.dumps(dashboard(board), indent=2) + "\n"
        for board in BOARDS
    }
    return {**made, Path("alerts.yaml"): prometheus_rule(), Path("rules.yaml"): rules_file()}


def write(directory: Path) -> list[Path]:
    """Write them all; what else is there stays. Raises :class:`OSError`."""
    written = []
    for path, content in files().items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")
        written.append(target)
    return written
