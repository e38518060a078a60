"""What ``ENABLED_MODELS`` comes to: by the GPU, by what is on the machine, by name; and the graph of that.

Model directories hold the smallest files that count as whole.
"""

import stat
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from deployments.catalogue import ModelRefused, load_catalogue
from deployments.engines.model_errors import ModelFilesError
from deployments.messages import (
    AudioSlice,
    Hints,
    Hotword,
    Recognition,
    RecognitionOptions,
    RecognitionRequest,
    SpeechRequest,
)
from deployments.model_store import ModelMissing
from deployments.recognizer import RecognizerOptions
from serve_app.app import build
from serve_app.cli.served import NotServable, fit_to_models
from serve_app.enabled_models import LARGE, SMALL, Choice, choose_models
from serve_app.errors import ModelNotFound
from serve_app.gpu_memory import largest_gpu
from serve_app.handles import ModelHandles, ServeGraph
from serve_app.models import ServedModels
from serve_app.settings import Settings
from serve_app.unmet_settings import unmet_settings
from tests.test_models import PolyglotGraph, transcribe
from tests.whole_models import write_funasr, write_qwen3

PARAFORMER, QWEN3 = "paraformer-starter", "qwen3-asr-starter"
BIG = "paraformer-large"
BESIDE = ("fsmn-vad", "ct-punc", "ct-punc-realtime", "paraformer-zh-streaming", "cam++")
ALIGNER = "qwen3-forced-aligner-0.6b"
GB = 10**9


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*Settings.model_fields, "cuda_visible_devices", "modelscope_cache", "hf_hub_cache"):
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def id_of(name: str) -> str:
    entry = load_catalogue().find(name)
    assert entry is not None
    return entry.modelscope[0]


def put(cache: Path, *names: str) -> None:
    """Models of the catalogue as a hub's tool leaves them."""
    for name in names:
        entry = load_catalogue().find(name)
        assert entry is not None
        directory = cache / id_of(name)
        if entry.engine in ("qwen3", "qwen3_aligner"):
            write_qwen3(directory, "qwen3_forced_aligner" if entry.task == "aligner" else "qwen3_asr")
        else:
            write_funasr(directory)


def choose(cache: Path, gpu: int | None = None, **settings: Any) -> Choice:
    return choose_models(Settings(modelscope_path=cache, **settings), lambda: gpu)


def names_of(choice: Choice) -> list[str]:
    return [model.id for model in ServedModels(choice.settings)]


@pytest.mark.parametrize(
    ("gpu", "device", "expected"),
    [
        (None, "auto", [PARAFORMER, QWEN3]),
        (80 * GB, "cpu", [PARAFORMER, QWEN3]),
        (80 * GB, "auto", [BIG, LARGE]),
        (80 * GB, "cuda", [BIG, LARGE]),
        # A Tesla V100 and a GeForce RTX 5090 with "32 GB", in MiB as their driver has it.
        (32_510 * 2**20, "auto", [BIG, LARGE]),
        (32_607 * 2**20, "auto", [BIG, LARGE]),
        (24 * GB, "auto", [BIG, SMALL]),
        (None, "cuda", [BIG, SMALL]),
    ],
)
def test_auto_goes_by_the_memory_of_the_gpu(
    tmp_path: Path, gpu: int | None, device: str, expected: list[str]
) -> None:
    put(tmp_path, BIG, LARGE, SMALL, ALIGNER, *BESIDE)
    choice = choose(tmp_path, gpu, device=device)
    assert names_of(choice) == expected
    assert choice.notes == ()
    assert ServedModels(choice.settings).default.id == expected[0]


def test_what_is_not_on_the_machine_is_named_with_what_fetches_it(tmp_path: Path) -> None:
    nothing = choose(tmp_path, 48 * GB)
    assert names_of(nothing) == [PARAFORMER, QWEN3]
    (note,) = nothing.notes
    assert f"{BIG} and {LARGE}" in note
    assert "`asr-serve models pull --profile gpu-large`" in note
    put(tmp_path, BIG, *BESIDE)
    half = choose(tmp_path, 24 * GB)
    assert names_of(half) == [BIG, QWEN3]
    (note,) = half.notes
    assert SMALL in note
    assert "--profile gpu`" in note


def test_what_the_start_may_fetch_counts_as_there(tmp_path: Path) -> None:
    choice = choose(tmp_path, 24 * GB, download_models=True)
    assert names_of(choice) == [BIG, SMALL]
    assert (choice.settings.vad_model, choice.settings.qwen3_aligner_model) == ("fsmn-vad", ALIGNER)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"paraformer_model": "iic/SenseVoiceSmall"}, ["sensevoice-small", SMALL]),
        ({"paraformer_model": "/my/paraformer", "model_name": "mine"}, ["mine", SMALL]),
        ({"qwen3_model": "Qwen/Qwen3-ASR-1.7B"}, [BIG, LARGE]),
        ({"qwen3_model": "none"}, [BIG]),
    ],
)
def test_a_model_that_is_set_wins_over_the_gpu(
    tmp_path: Path, settings: dict[str, str], expected: list[str]
) -> None:
    put(tmp_path, BIG, LARGE, SMALL, ALIGNER, *BESIDE)
    assert names_of(choose(tmp_path, 24 * GB, **settings)) == expected


def test_all_is_what_is_configured_and_what_is_there(tmp_path: Path) -> None:
    bare = names_of(choose(tmp_path, enabled_models="all"))
    assert bare[:2] == [PARAFORMER, QWEN3]
    put(tmp_path, SMALL, "sensevoice-small", "fsmn-vad", "whisper-large-v3")
    everything = names_of(choose(tmp_path, enabled_models="ALL"))
    assert set(everything) == {*bare, SMALL, "sensevoice-small"}
    assert len(everything) == len(bare) + 2


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (f"{SMALL}, {BIG}", [SMALL, BIG]),
        ("Qwen/Qwen3-ASR-0.6B,damo/SenseVoiceSmall", [SMALL, "sensevoice-small"]),
        (f"{PARAFORMER},{BIG},{PARAFORMER}", [PARAFORMER, BIG]),
        ("paraformer-zh,Qwen3-ASR-Starter", ["seaco-paraformer", QWEN3]),
        ("models/starter/paraformer", [PARAFORMER]),
        (f",{QWEN3},", [QWEN3]),
    ],
)
def test_a_list_is_exactly_what_is_served(tmp_path: Path, listed: str, expected: list[str]) -> None:
    assert names_of(choose(tmp_path, 80 * GB, enabled_models=listed)) == expected


def test_a_configured_model_is_meant_by_what_it_is_and_by_its_name(tmp_path: Path) -> None:
    hub_id = id_of(BIG)
    (model,) = ServedModels(choose(tmp_path, enabled_models=BIG, paraformer_model=hub_id).settings)
    assert (model.id, model.reference) == (BIG, hub_id)
    own = choose(tmp_path, enabled_models=BIG, paraformer_model="/my/model", model_name=BIG)
    (model,) = ServedModels(own.settings)
    assert (model.id, model.reference, model.entry) == (BIG, "/my/model", None)


@pytest.mark.parametrize(
    ("listed", "error", "message"),
    [
        ("nova-9", ModelNotFound, f"'nova-9'.*There are {PARAFORMER}, {QWEN3}.*models list"),
        (f"{PARAFORMER},fsmn-vad", ModelNotFound, "fsmn-vad, whose task is vad"),
        ("iic/Whisper-large-v3", ModelRefused, "whisper-large-v3 cannot be used.*no engine"),
    ],
)
def test_names_that_cannot_be_served_stop_the_start(
    tmp_path: Path, listed: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        choose(tmp_path, enabled_models=listed)


@pytest.mark.parametrize("value", [",", "auto,paraformer-large", "paraformer-large, ALL"])
def test_values_that_say_two_things_are_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="enabled_models"):
        Settings(enabled_models=value)


def test_a_model_that_is_missing_stops_the_build_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=f"`asr-serve models pull {SMALL}`"):
        build({"enabled_models": f"{PARAFORMER},{SMALL}", "modelscope_path": str(tmp_path)})


def test_models_of_full_size_take_along_what_fits_them(tmp_path: Path) -> None:
    put(tmp_path, BIG, "fsmn-vad", "ct-punc-c", "ct-punc-realtime", "cam++")
    choice = choose(tmp_path, enabled_models=f"{BIG},{SMALL}", punctuation_realtime_model="models/mine")
    settings = choice.settings
    assert (settings.vad_model, settings.punctuation_model) == ("fsmn-vad", "ct-punc-c")
    assert (settings.speaker_model, settings.punctuation_realtime_model) == ("cam++", "models/mine")
    assert settings.paraformer_streaming_model == Settings().paraformer_streaming_model
    assert settings.qwen3_aligner_model == "none"
    (note,) = choice.notes
    assert f"`asr-serve models pull paraformer-zh-streaming {ALIGNER}`" in note
    put(tmp_path, ALIGNER)
    assert choose(tmp_path, enabled_models=SMALL).settings.qwen3_aligner_model == ALIGNER
    own = choose(tmp_path, paraformer_model="/my/paraformer", qwen3_model="none").settings
    assert own.vad_model == "fsmn-vad"
    starters = choose(tmp_path, enabled_models=f"{PARAFORMER},{QWEN3}")
    assert starters.settings.vad_model == Settings().vad_model
    assert starters.notes == ()


def test_telephone_models_take_along_the_detection_of_telephone_speech(tmp_path: Path) -> None:
    put(tmp_path, "fsmn-vad", "fsmn-vad-8k")
    assert choose(tmp_path, enabled_models="paraformer-8k").settings.vad_model == "fsmn-vad-8k"
    assert choose(tmp_path, enabled_models=f"paraformer-8k,{BIG}").settings.vad_model == "fsmn-vad"


def test_what_was_chosen_is_what_all_processes_see(tmp_path: Path) -> None:
    put(tmp_path, BIG, SMALL, ALIGNER, *BESIDE)
    choice = choose(tmp_path, 24 * GB)
    again = choose_models(choice.settings, lambda: None)
    assert again.settings == choice.settings


def served(*names: str, **settings: Any) -> ServedModels:
    return ServedModels(Settings(enabled_models=",".join(names), **settings))


def test_each_model_has_a_deployment_of_its_own() -> None:
    models = served(SMALL, "sensevoice-small", PARAFORMER, LARGE, BIG)
    assert {model.id: model.deployment for model in models} == {
        SMALL: "Qwen3ASR",
        "sensevoice-small": "Recognizer-sensevoice-small",
        PARAFORMER: "Paraformer",
        LARGE: f"Recognizer-{LARGE}",
        BIG: f"Recognizer-{BIG}",
    }


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("", PARAFORMER),
        (LARGE, LARGE),
        ("Qwen/Qwen3-ASR-1.7B", LARGE),
        ("qwen3-asr", SMALL),
        ("qwen3-asr-flash", LARGE),
        ("SenseVoiceSmall", "sensevoice-small"),
        ("damo/sensevoicesmall", "sensevoice-small"),
        ("sensevoice-v1", "sensevoice-small"),
        (BIG, BIG),
        ("paraformer-realtime-v2", PARAFORMER),
        ("paraformer", PARAFORMER),
    ],
)
def test_the_very_name_wins_over_the_kind(name: str, model: str) -> None:
    models = served(PARAFORMER, LARGE, SMALL, "sensevoice-small", BIG)
    assert models.find(name).id == model


def test_only_what_is_served_can_be_asked_for() -> None:
    models = served("sensevoice-small", SMALL)
    with pytest.raises(ModelNotFound, match=f"there are: sensevoice-small, {SMALL}"):
        models.find(BIG)
    assert models.meant(BIG).id == "sensevoice-small"
    assert served("sensevoice-small", SMALL, default_model="qwen3-asr").default.id == SMALL


def test_a_directory_of_ones_own_says_whether_it_listens_for_hotwords(tmp_path: Path) -> None:
    write_funasr(tmp_path / "plain")
    (write_funasr(tmp_path / "seaco") / "config.yaml").write_text("encoder: x\nmodel: SeacoParaformer\n")
    for name, hears in (("plain", False), ("seaco", True)):
        model = next(iter(ServedModels(Settings(paraformer_model=str(tmp_path / name)))))
        assert model.hears_hotwords is hears


def bound(args: dict[str, Any]) -> ModelHandles:
    """The models that the ingress of a graph is bound to."""
    return next(item for item in build(args)._bound_deployment.init_args if isinstance(item, ModelHandles))


def test_the_graph_has_all_of_them(tmp_path: Path) -> None:
    put(tmp_path, BIG, LARGE)
    names = [PARAFORMER, QWEN3, BIG, LARGE]
    args = {"enabled_models": ",".join(names), "modelscope_path": str(tmp_path), "asr_batch_size": 4}
    nodes = {name: node._bound_deployment for name, node in bound(args).recognizers.items()}
    assert list(nodes) == names
    assert [node.name for node in nodes.values()] == [
        *("Paraformer", "Qwen3ASR"),
        *(f"Recognizer-{BIG}", f"Recognizer-{LARGE}"),
    ]
    directory, options = nodes[BIG].init_args
    assert directory == str(tmp_path / id_of(BIG))
    assert options == RecognizerOptions("paraformer", max_batch_segments=4)
    assert Path(nodes[LARGE].init_args[0]).name == "Qwen3-ASR-1.7B"
    # None of those without an entry in serve_config.yaml waits for a core that others hold.
    assert all(nodes[name].ray_actor_options["num_cpus"] == 0 for name in (QWEN3, BIG, LARGE))


def test_a_form_that_is_not_there_stops_the_build() -> None:
    with pytest.raises(ModelFilesError, match=r"holds no model_quant.onnx.*asr-serve models export"):
        build({"funasr_engine": "onnx"})


def test_qwen3_alone_needs_neither_streams_nor_marks() -> None:
    alone, both = bound({"enabled_models": QWEN3}), bound({})
    assert (alone.streaming, alone.punctuation) == (None, None)
    assert None not in (both.streaming, both.punctuation, both.aligner)
    assert bound({"qwen3_model": "none"}).aligner is None


class Remote:
    """A handle that tells what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.transcribe = self

    def options(self, **_: str) -> "Remote":
        return self

    async def remote(self, request: Any) -> Recognition:
        self.asked.append(request)
        return Recognition(applied=("heard",))


async def test_the_graph_asks_the_model_that_is_meant() -> None:
    models = served(PARAFORMER, QWEN3, "seaco-paraformer", LARGE)
    handles = {model.id: Remote() for model in models}
    graph = ServeGraph(cast(Any, SimpleNamespace(**vars_of(handles))), models)
    audio, words = AudioSlice(()), (Hotword("钉钉", 20), Hotword("阿里"))
    for name in ("", "seaco-paraformer", "qwen3-asr-1.7b"):
        options = RecognitionOptions(name, "zh", "钉钉, 阿里", hotwords=words)
        assert (await graph.transcribe(audio, options=options)).applied == ("heard",)
    assert [len(handle.asked) for handle in handles.values()] == [1, 0, 1, 1]
    (request,) = handles["seaco-paraformer"].asked
    assert request == RecognitionRequest(audio, hints=Hints(words, "zh"))
    (request,) = handles[LARGE].asked
    assert isinstance(request, SpeechRequest)
    assert (request.language, request.context) == ("zh", "钉钉, 阿里")


def vars_of(recognizers: dict[str, Remote]) -> dict[str, Any]:
    beside: dict[str, Any] = dict.fromkeys(("vad", "punctuation", "streaming", "speakers", "aligner"))
    return {**beside, "recognizers": recognizers}


@pytest.mark.parametrize(
    ("model", "hotwords", "context"),
    [
        (PARAFORMER, [], ""),
        ("seaco-paraformer", ["Zhang Wei"], ""),
        (LARGE, [], "Zhang Wei"),
    ],
)
async def test_hotwords_go_to_models_that_listen_for_them(
    model: str, hotwords: Sequence[str], context: str
) -> None:
    graph = PolyglotGraph()
    listed = f"{PARAFORMER},seaco-paraformer,{LARGE}"
    response = await transcribe(graph, {"model": model, "keywords[]": "Zhang Wei"}, enabled_models=listed)
    assert response.status_code == 200, response.text
    assert graph.options.model == model
    assert [word.text for word in graph.options.hotwords] == hotwords
    assert graph.options.context == context


def nvidia_smi(directory: Path, script: str) -> None:
    command = directory / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)


def test_the_memory_of_gpus_is_what_their_driver_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    nvidia_smi(tmp_path, 'case "$*" in *--id=1*) echo 16376;; *) echo 16376; echo 81559;; esac')
    assert largest_gpu() == 81_559 * 2**20
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert largest_gpu() == 16_376 * 2**20
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert largest_gpu() is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for broken in ("echo '[N/A]'", "exit 9"):
        nvidia_smi(tmp_path, broken)
        assert largest_gpu() is None


def config(names: Sequence[str], gpu: float = 0.0, **args: Any) -> ServeDeploySchema:
    entries = [{"name": name, "ray_actor_options": {"num_gpus": gpu} if gpu else {}} for name in names]
    application = {"name": "asr", "import_path": "serve_app.app:build", "args": args, "deployments": entries}
    return ServeDeploySchema.model_validate({"applications": [application]})


def test_entries_of_models_that_are_not_served_are_left_out() -> None:
    names = ["Ingress", "Vad", "Paraformer", "Qwen3ASR", "Recognizer-seaco-paraformer", "Mispelled"]
    whole = config(names, enabled_models=f"{QWEN3},seaco-paraformer", speaker_model="none")
    assert fit_to_models(whole) == ["Recognizer-seaco-paraformer"]
    alone = config(names, enabled_models=QWEN3)
    assert fit_to_models(alone) == ["Paraformer", "Recognizer-seaco-paraformer"]
    # Serve itself refuses names of which nobody knows anything.
    assert [entry.name for entry in alone.applications[0].deployments] == [
        "Ingress",
        "Vad",
        "Qwen3ASR",
        "Mispelled",
    ]
    with pytest.raises(NotServable, match="whisper-large-v3 cannot be used"):
        fit_to_models(config(names, enabled_models="whisper-large-v3"))
    with pytest.raises(NotServable, match="'nova' is not served here"):
        fit_to_models(config(names, default_model="nova"))


def test_models_are_chosen_for_a_cpu_where_no_replica_gets_a_gpu() -> None:
    for gpu, device in ((0.0, "cpu"), (0.1, "auto")):
        made = config(["Paraformer"], gpu)
        fit_to_models(made)
        assert Settings(**made.applications[0].args).device == device


def test_what_cannot_be_done_is_said() -> None:
    assert [*unmet_settings(Settings())] == []
    (line,) = unmet_settings(Settings(asr_enable_lm=True, workers="1", enable_streaming_vllm=True))
    assert "ASR_ENABLE_LM" in line
    (line,) = unmet_settings(Settings(workers="4"))
    assert "num_replicas" in line
