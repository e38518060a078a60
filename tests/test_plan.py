"""``asr-serve plan``: what it plans can be served and fits; what it cannot plan, it refuses, with figures."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema
from typer.testing import CliRunner, Result

from deployments.autoscaling import policy_fault
from serve_app.capacity import rates
from serve_app.capacity.budget import sharing
from serve_app.capacity.cards import GIB, sold_as
from serve_app.capacity.checking import check_file
from serve_app.capacity.packing import fits_in_any_order
from serve_app.capacity.profile import profile
from serve_app.capacity.sizing import enough_gpus, nearest, plan
from serve_app.capacity.wishes import CannotCount, CannotPlan, Plan, Wish
from serve_app.cli.gpus import gpu_shortage
from serve_app.cli.main import app
from serve_app.cli.served import fit_to_models
from serve_app.settings import Settings

GRID = [
    Wish(gpu * GIB, gpus, cores, streams, files, models)
    for (gpu, gpus), cores, (streams, files), models in itertools.product(
        [(0, 0), (8, 1), (12, 2), (16, 1), (24, 1), (24, 4), (80, 1), (80, 3)],
        [None, 16.0],
        [(0, 0.0), (10, 20.0), (50, 300.0), (400, 1000.0)],
        [(), ("paraformer-large",), ("qwen3-asr-0.6b",), ("qwen3-asr-1.7b", "seaco-paraformer")],
    )
]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def planned(wish: Wish) -> Plan | None:
    try:
        return plan(wish)
    except CannotPlan:
        return None


def replicas(made: Plan) -> dict[str, int]:
    return {stage.name: stage.replicas for stage in made.stages}


def test_whatever_is_planned_can_be_served_and_fits(tmp_path: Path) -> None:
    # Where the shared GPU is nearly full, and only just not.
    tight = [Wish(8 * GIB, 2, None, streams, 0) for streams in range(10, 100, 15)]
    made = [found for wish in (*GRID, *tight) if (found := planned(wish)) is not None]
    assert len(GRID) / 4 < len(made) < len(GRID)
    for found in made:
        assert_serves(found, tmp_path / "plan.yaml")


def assert_serves(made: Plan, path: Path) -> None:
    wish, text = made.wish, profile(made, "asr-serve plan")
    path.write_text(text, encoding="utf-8")
    config = ServeDeploySchema.model_validate(yaml.safe_load(text))
    application = config.applications[0]
    for entry in application.deployments:
        assert policy_fault(entry.model_dump(exclude_unset=True).get("autoscaling_config")) is None
    # Nothing in it is a deployment that its own settings leave out.
    assert fit_to_models(config) == []
    settings = Settings(**application.args)
    ingress = application.deployments[0]
    assert ingress.name == "Ingress"
    limit = settings.max_live_sessions + settings.max_concurrent_files
    assert isinstance(ingress.max_ongoing_requests, int)
    assert ingress.max_ongoing_requests > limit
    assert settings.max_live_sessions * replicas(made)["Ingress"] >= wish.streams
    if wish.cores is not None:
        assert made.cores <= wish.cores
    if wish.gpus:
        application.args |= {"modelscope_path": "/nowhere"}
        assert gpu_shortage(config, wish.gpus, lambda: sold_as(wish.gpu) + GIB // 2) is None, text
        assert check_file(path, wish.gpu, wish.gpus).fits
        entries = [sharing(entry.model_dump(exclude_unset=True)) for entry in application.deployments]
        shares = [each.share for each in entries for _ in range(each.replicas) if each.share]
        assert fits_in_any_order(shares, wish.gpus)
    else:
        assert not any(
            sharing(entry.model_dump(exclude_unset=True)).share for entry in application.deployments
        )


def test_what_is_refused_comes_with_what_can_be_had() -> None:
    wish = Wish(24 * GIB, 1, None, 500, 300)
    with pytest.raises(CannotPlan, match=r"files and finals 800 / 850 \+ live chunks 500 / 284"):
        plan(wish)
    smaller = nearest(wish)
    assert smaller is not None
    assert 0 < smaller.streams < 500
    assert planned(smaller) is not None
    assert planned(replace(smaller, streams=smaller.streams + 5, files_rtfx=smaller.files_rtfx + 3)) is None
    more = enough_gpus(wish)
    assert more is not None
    assert planned(replace(wish, gpus=more)) is not None
    assert planned(replace(wish, gpus=more - 1)) is None


def test_more_is_planned_with_more() -> None:
    little = replicas(plan(Wish(streams=4, files_rtfx=20)))
    much = replicas(plan(Wish(streams=80, files_rtfx=400)))
    assert all(much[name] >= count for name, count in little.items())
    # As many as their rate says: 480 s of audio a second, at 0.7 of 28 each.
    assert much["Paraformer"] == 25
    assert little["Paraformer"] == 2
    assert rates.PARAFORMER_CORE.planned == pytest.approx(19.6)


def test_one_gpu_keeps_what_is_left_as_cache() -> None:
    def cache(streams: int) -> float:
        return Settings(**plan(Wish(24 * GIB, 1, None, streams, 0)).args).qwen3_memory or 0

    assert cache(10) > cache(140) > 2.2 * 1024


def test_of_several_gpus_qwen3_has_whole_ones() -> None:
    made = {stage.name: stage for stage in plan(Wish(24 * GIB, 4, None, 10, 20)).stages}
    assert (made["Qwen3ASR"].share, made["Qwen3ASR"].replicas) == (1, 1)
    leading = plan(Wish(24 * GIB, 4, None, 10, 20, ("qwen3-asr-0.6b",)))
    assert replicas(leading)["Qwen3ASR"] == 3
    assert "Paraformer" not in replicas(leading)


@pytest.mark.parametrize(
    ("wish", "problem"),
    [
        (Wish(24 * GIB, 1, models=("whisper-large-v3",)), "is no recognizer that can be served"),
        (Wish(24 * GIB, 1, models=("sensevoice-small",)), "There are no figures to plan sensevoice-small"),
        (Wish(24 * GIB, 1, models=("qwen3-asr-starter",)), "There are no figures to plan qwen3-asr-starter"),
        (Wish(models=("qwen3-asr-0.6b",)), "no measured figure of qwen3-asr-0.6b on a CPU"),
        (Wish(models=("paraformer-large", "paraformer-en")), "one Paraformer and one Qwen3-ASR at most"),
    ],
)
def test_models_without_figures_are_not_planned(wish: Wish, problem: str) -> None:
    with pytest.raises(CannotCount, match=problem):
        plan(wish)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", *arguments])


def test_the_profile_goes_to_stdout_and_the_table_to_stderr() -> None:
    result = run("--gpu", "24GB", "--streams", "50", "--files-rtfx", "300")
    assert result.exit_code == 0, result.output
    document = yaml.safe_load(result.stdout)
    ServeDeploySchema.model_validate(document)
    assert result.stdout.startswith("# Planned by `asr-serve plan --gpu 24GB --streams 50 --files-rtfx 300`.")
    assert "ParaformerStreaming: weights" in result.stderr
    assert "No figure of a GPU is ours" in result.stderr


def test_it_is_written_where_it_is_told_to(tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    result = run("--cpus", "16", "--streams", "20", "--files-rtfx", "100", "--output", str(target))
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    ServeDeploySchema.model_validate(yaml.safe_load(target.read_text(encoding="utf-8")))
    missing = run("--cpus", "16", "--output", str(tmp_path / "none" / "mine.yaml"))
    assert missing.exit_code == 1
    assert "cannot be written" in missing.stderr


def test_impossible_wishes_are_refused_in_the_terminal() -> None:
    result = run("--gpu", "24GB", "--streams", "500", "--files-rtfx", "300")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "The work takes 2.70 GPUs" in result.stderr
    assert "The nearest that fits: asr-serve plan --gpu 24GB --streams 1" in result.stderr
    assert "With 5 such GPUs it fits as it is." in result.stderr
    small = run("--gpu", "8GB")
    assert "The models do not fit one GPU of 7.6 GB" in small.stderr
    assert "Without the other model it fits: asr-serve plan --gpu 8GB --streams 0" in small.stderr
    few = run("--cpus", "2", "--streams", "3")
    assert "This takes 2.75 cores" in few.stderr
    assert "take more cores" in few.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--gpu", "large"], "--gpu takes a size"),
        (["--gpu", "24"], "less than 1GB"),
        (["--gpus", "2"], "give --gpu once"),
        (["--gpu", "24GB", "--gpu", "16GB", "--gpus", "2"], "give --gpu once"),
        (["--models", ","], "--models takes names"),
        (["--files-rtfx", "nan"], "--files-rtfx"),
        (["--streams", "-1"], "--streams"),
        (["--check", "configs/gpu-24g.yaml"], "--check needs the GPUs"),
    ],
)
def test_bad_options_are_refused(arguments: list[str], problem: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert problem in " ".join(result.stderr.replace("│", " ").split())


def test_a_config_is_checked_for_gpus_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    fits = run("--check", "configs/multi-node.yaml", "--gpu", "24GB")
    assert fits.exit_code == 0, fits.output
    assert "fits a GPU of 22.0 GB" in fits.stdout
    # What this machine's environment says is nothing to machines elsewhere.
    monkeypatch.setenv("QWEN3_MEMORY", "20GB")
    assert run("--check", "configs/multi-node.yaml", "--gpu", "24GB").exit_code == 0
    result = run("--check", "configs/gpu-24g.yaml", "--gpu", "16GB")
    assert result.exit_code == 1
    assert "TOO SMALL, give it 0.68" in result.stderr
    assert run("--check", "none.yaml", "--gpu", "16GB").exit_code == 1


def test_rates_say_where_they_come_from() -> None:
    of_gpus: list[Any] = [
        rate
        for size in (16, 24, 80)
        for rate in (
            rates.paraformer_gpu(sold_as(size * GIB)),
            rates.streaming_gpu(sold_as(size * GIB)),
            rates.qwen3_gpu("qwen3-asr-0.6b", sold_as(size * GIB)),
        )
    ]
    assert all(rate.origin in ("published", "derived") and rate.source for rate in of_gpus)
    text = (Path(__file__).parents[1] / "docs" / "sizing.md").read_text(encoding="utf-8")
    measured = [rate for rate in vars(rates).values() if isinstance(rate, rates.Rate)]
    for rate in (*of_gpus, *measured):
        assert f"| {rate.value:g} " in text, rate
