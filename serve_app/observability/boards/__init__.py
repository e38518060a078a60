"""The dashboards: one list."""

from serve_app.observability.boards.edge import EDGE
from serve_app.observability.boards.jobs import JOBS
from serve_app.observability.boards.live import LIVE
from serve_app.observability.boards.machines import MACHINES
from serve_app.observability.boards.overview import OVERVIEW
from serve_app.observability.boards.stages import STAGES

BOARDS = (OVERVIEW, LIVE, STAGES, JOBS, MACHINES, EDGE)
"""In the order in which they are worth a look."""
