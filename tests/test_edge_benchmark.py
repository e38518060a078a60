"""``benchmarks.edge``, on ways in that need no Ray."""

import pytest

from benchmarks.edge import Figures, Way, bare_server, edge_before, run, table


@pytest.mark.slow
def test_the_benchmark_compares_ways_in() -> None:
    bare, behind = Figures(), Figures()
    with bare_server() as url, edge_before(url.replace("ws", "http").rstrip("/")) as through:
        for _ in range(2):
            run(url, bare, connections=2, seconds=0.3)
            run(through, behind, connections=2, seconds=0.3)
    for figures in (bare, behind):
        rate, p50, p95 = figures.row
        assert rate > 10
        assert 0 < p50 <= p95
    shown = table(bare, {Way(1, False, edge=True): behind})
    assert [len(list(column.cells)) for column in shown.columns] == [2] * 8
    assert list(shown.columns[0].cells) == ["bare uvicorn", "edge, Serve's proxy"]
    assert list(shown.columns[4].cells)[1] == "1.00"
