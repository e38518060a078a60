"""Everything that a user can set, in one place.

Each field is read from the environment variable of the same name in capitals, else from ``args`` in
``serve_config.yaml``, else its default holds. What belongs to a single deployment (replicas, CPUs, batch
sizes) is in that deployment's entry of ``serve_config.yaml`` instead, because Serve can change it there
without a restart.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from limits import parse_many
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from serve_app.addresses import HostList
from serve_app.shares import open_storage

_UNITS = {"": 1, "M": 1, "MB": 1, "G": 1024, "GB": 1024, "K": 1 / 1024, "KB": 1 / 1024}


def _megabytes(value: Any) -> Any:
    """Accept ``2048``, ``"2048"``, ``"2GB"`` or ``"500 MB"``; a bare number means megabytes."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?B?)\s*", value.upper())
    if match is None or match[2] not in _UNITS:
        raise ValueError("give a number of megabytes, or a size such as 500MB or 2GB")
    return float(match[1]) * _UNITS[match[2]]


def _keys(value: SecretStr | None) -> SecretStr | None:
    # A server whose keys got lost on the way here must not be open to everybody.
    if value is not None and not value.get_secret_value().replace(",", "").strip():
        raise ValueError("it is set, but holds no key")
    return value


def _rate_limit(value: str | None) -> str | None:
    try:
        _ = value and parse_many(value)
    except ValueError as error:
        raise ValueError("give a number per time, such as 60/minute or 5/second; 1000/day") from error
    return value


def _storage(value: SecretStr | None) -> SecretStr | None:
    open_storage(value.get_secret_value() if value else None)
    return value


def _hosts(value: str | None) -> str | None:
    HostList(value)
    return value


def _model_names(value: str) -> str:
    names = [name.strip().lower() for name in value.split(",") if name.strip()]
    if not names:
        raise ValueError("give auto, all, or names of models, separated by commas")
    if len(names) > 1 and {"auto", "all"} & {*names}:
        raise ValueError("auto and all stand alone; give one of them, or names of models")
    return value


def _is_yes(value: Any) -> Any:
    # DEBUG is a variable of many programs, some of which want a list of names in it.
    return value.strip().lower() in ("1", "true", "yes", "on") if isinstance(value, str) else value


def _hotwords(value: Path | None) -> Path | None:
    if value is None:
        return None
    # Who only wants to know the settings does not need what reads the file.
    from serve_app.pipeline.hotwords_file import read_hotwords

    path = value.expanduser().absolute()
    read_hotwords(path)
    return path


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


Megabytes = Annotated[float, BeforeValidator(_megabytes)]


class Settings(BaseSettings):
    """The service's settings. Immutable; built once by :func:`serve_app.app.build` and passed down."""

    # A value that cannot be used is not shown: it may be a key, also one under a mistyped name.
    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True
    )

    api_key: Annotated[SecretStr | None, AfterValidator(_keys)] = None
    """Key that clients must send (``Authorization: Bearer …``), or several, separated by commas: one for
    each client. Not set: no authentication."""

    admin_key: Annotated[SecretStr | None, AfterValidator(_keys)] = None
    """Key that shows how the service does (``/admin``, ``asr-serve top``). Not set: only clients on the same
    machine see it, who need an ``API_KEY`` if there is one."""

    rate_limit: Annotated[str | None, AfterValidator(_rate_limit)] = None
    """Requests that one client may make, as ``60/minute`` or ``5/second; 1000/day``. Not set: any number."""

    rate_limit_storage: Annotated[SecretStr | None, AfterValidator(_storage)] = None
    """Where requests are counted: a storage URL of the ``limits`` package, such as ``redis://host:6379``, for
    several ingress replicas. Not set: each replica counts its own, in memory."""

    max_concurrent_per_key: int | None = Field(None, ge=1)
    """Requests and live connections of one client that one ingress replica serves at once. Not set: any
    number."""

    trusted_proxies: Annotated[str | None, AfterValidator(_hosts)] = None
    """Addresses and networks, separated by commas, of proxies whose ``X-Forwarded-For`` tells who a client
    without a key is. Not set: the header is not believed."""

    cors_origins: str = "*"
    """Origins of web pages that may read answers, separated by commas; ``*`` is all, ``none`` none."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Level of the service's own log lines."""

    debug: Annotated[bool, BeforeValidator(_is_yes)] = False
    """Whether log lines are written down to ``DEBUG``, whatever ``log_level`` says."""

    log_format: Literal["text", "json"] = "text"
    """How log lines are written: ``text``, or one JSON object each."""

    tracing: Literal["off", "otlp", "file"] = "off"
    """Where traces of requests go: ``otlp`` (OTLP over HTTP, to ``OTEL_EXPORTER_OTLP_ENDPOINT``), ``file``
    (``traces.jsonl`` in ``data_dir``) or nowhere."""

    tracing_sample: float | None = Field(None, ge=0, le=1)
    """Share of the requests that is traced, 0 to 1, of those whose client does not say. Not set: 0.01, or all
    with ``tracing=file``."""

    log_transcripts: bool = False
    """Whether each result is logged, with its text. Without it, no log line holds what was said."""

    device: str = "auto"
    """Where models run: ``auto`` (CUDA where a replica was given a GPU, else CPU), ``cpu`` or ``cuda``."""

    gpu_memory: Megabytes | None = Field(None, gt=0)
    """Memory of each GPU as it is sold, in MB; a unit may be given (``24GB``). Not set: the driver is asked;
    to be given where the graph is built on a machine without one, as on the head of a cluster."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of Paraformer and of the speaker model. ``auto``: bf16 on a GPU or on a CPU with AVX-512
    BF16 or AMX, else fp32."""

    funasr_engine: Literal["auto", "torch", "onnx"] = "auto"
    """In which form the models of FunASR run: ``torch``, ``onnx`` (``model_quant.onnx`` or ``model.onnx`` in
    ONNX Runtime), or ``auto``: the form that a directory holds; of both, the one that is faster on the
    processor."""

    enabled_models: Annotated[str, AfterValidator(_model_names)] = "auto"
    """Which recognizers are served: names of the catalogue or of the configured models, separated by commas;
    ``all`` that are on this machine; or ``auto``: by the memory of its GPU, else the configured ones."""

    asr_batch_size: int | None = Field(None, ge=1)
    """Most segments of one batch of a recognizer that is no Qwen3-ASR. Not set: as many as ``user_config``
    allows, by their length."""

    asr_enable_lm: bool = False
    """Understood, for funasr-api's sake: there is no language model beside the recognizers, so a server for
    which it is set says so when it starts."""

    enable_streaming_vllm: bool = False
    """Understood, for funasr-api's sake: one engine of Qwen3-ASR serves files and live speech, always."""

    workers: str | None = None
    """Understood, for funasr-api's sake: replicas are set in ``serve_config.yaml``, and a server for which
    this is more than 1 says so when it starts."""

    vad_model: str = "models/starter/fsmn-vad"
    """The voice-activity model (FSMN-VAD): a directory, or a ModelScope id that was downloaded before."""

    paraformer_model: str = "models/starter/paraformer"
    """The offline recognition model (Paraformer): a directory or a ModelScope id."""

    paraformer_streaming_model: str = "models/starter/paraformer-streaming"
    """The live recognition model (streaming Paraformer): a directory or a ModelScope id."""

    paraformer_streaming_threads: int = Field(0, ge=0)
    """Threads of a ParaformerStreaming replica on a CPU; 0: as many as its ``num_cpus``, at least one."""

    punctuation_model: str = "models/starter/ct-punc"
    """The punctuation model (CT-Transformer): a directory or a ModelScope id."""

    punctuation_realtime_model: str = "models/starter/ct-punc-realtime"
    """The punctuation model for live text (streaming CT-Transformer): a directory or a ModelScope id."""

    speaker_model: str = "models/starter/campplus"
    """The speaker model (CAM++ or ERes2NetV2): a directory or a ModelScope id; ``none``: no speakers are told
    apart."""

    enable_speaker_diarization: bool = True
    """Whether speakers are told apart where a request does not say and its answer has a place for them."""

    speaker_labels: Literal["auto", "zh", "en"] = "auto"
    """What speakers without a name are called: ``zh`` 说话人1, ``en`` Speaker 1, ``auto`` by the language."""

    speaker_similarity: float | None = Field(None, gt=0, lt=1)
    """Cosine similarity above which two voices count as the same person's. Not set: the speaker model's own
    (``same_speaker_threshold`` in its ``config.yaml``), or 0.5."""

    max_speakers_per_key: int = Field(1000, ge=0)
    """Voices that one client may enroll under names."""

    expose_voiceprints: bool = False
    """Whether a client may fetch its enrolled voices as vectors. Without it, they never leave the server."""

    modelscope_path: Path = Path("~/.cache/modelscope/hub/models")
    """Root of ModelScope's cache: models given by name or id are looked up here first, and fetched here."""

    download_models: bool = False
    """Whether the start fetches models that are named and are not on this machine. Without it, a start with
    models that are here opens no connection to anywhere else."""

    hotwords_file: Annotated[Path | None, AfterValidator(_hotwords)] = None
    """Words that the models listen for in every recording: a file with a word, and behind it its weight (1 to
    100) if it has one, on each line. It is read again when it has changed. Not set: none."""

    models_file: Path | None = None
    """A file with models of your own, as ``configs/models.yaml``: they are known by name as those in there
    are. Not set: none."""

    model_name: str = "paraformer-starter"
    """Name under which ``/v1/models`` lists the recognition model."""

    qwen3_model: str = "models/starter/qwen3-asr"
    """The Qwen3-ASR model: a directory, a ModelScope id or a Hugging Face id that was downloaded before;
    ``none``: it is not served."""

    qwen3_aligner_model: str = "models/starter/qwen3-forced-aligner"
    """The model that tells when the words were said that Qwen3-ASR wrote (Qwen3-ForcedAligner): as above;
    ``none``: times of its words are estimated."""

    qwen3_model_name: str = "qwen3-asr-starter"
    """Name under which ``/v1/models`` lists it; ``qwen3-asr`` means it too."""

    qwen3_engine: Literal["auto", "vllm", "package"] = "auto"
    """What runs it: ``vllm``, ``package`` (the qwen-asr package), or ``auto``: vLLM where a replica was given
    a GPU and the package elsewhere, or whichever of the two is installed."""

    qwen3_threads: int = Field(0, ge=0)
    """Threads of a replica of Qwen3-ASR or of its aligner on a CPU; 0: as many as its ``num_cpus``, at least
    one."""

    qwen3_memory: Megabytes | None = Field(None, gt=0)
    """Memory for what Qwen3-ASR's attention remembers (the key-value cache), in MB; a unit may be given. Not
    set: with vLLM the rest of the replica's share of its GPU, or 1 GB on a CPU; with the package 4 GB."""

    qwen3_max_model_len: int = Field(20_480, ge=1024)
    """Tokens of one request of Qwen3-ASR under vLLM, audio included (13 for a second)."""

    default_model: str | None = None
    """Name of the model for requests that name none. Not set: the Paraformer."""

    aliyun_success_status: Annotated[Literal[20000000, 200], BeforeValidator(_whole)] = 20000000
    """``status`` of a success on ``/stream/v1/asr``: Aliyun's, or 200 as funasr-api sends it."""

    max_audio_size: Megabytes = Field(2048, gt=0)
    """Largest upload, in MB; a unit may be given (``500MB``, ``2GB``)."""

    max_audio_duration_sec: float = Field(8 * 3600, gt=0)
    """Longest recording, in seconds."""

    min_audio_duration_sec: float = Field(0.1, ge=0)
    """Shortest recording, in seconds."""

    allow_private_urls: Annotated[str | None, AfterValidator(_hosts)] = None
    """Hosts that URLs of clients may name although they are not on the public internet: names, addresses
    and networks, separated by commas; ``*`` is all. Not set: none."""

    download_timeout_sec: float = Field(600, gt=0)
    """What fetching a recording by its URL may take, redirects included, in seconds."""

    download_max_redirects: int = Field(5, ge=0)
    """Redirects that are followed for one URL."""

    max_segment_sec: float = Field(90, ge=5, le=120)
    """No stretch longer than this goes to the recognizer, in seconds; speech above it is cut where quiet."""

    merge_segment_sec: float = Field(20, ge=0, le=120)
    """Neighboring stretches of speech are joined up to this length, in seconds; 0 joins none."""

    split_silence_sec: float = Field(3, gt=0)
    """A pause longer than this always ends a segment, in seconds."""

    vad_end_silence_ms: int = Field(800, ge=100, le=6000)
    """Silence after which speech counts as ended, in milliseconds."""

    max_concurrent_files: int = Field(64, ge=1)
    """Files that one ingress replica works on at once; further requests get 429 and ``Retry-After``."""

    segments_in_flight: int = Field(32, ge=1)
    """Segments of one file that may wait for recognition at once; bounds memory."""

    max_live_sessions: int = Field(256, ge=1)
    """Live sessions that one ingress replica holds at once; further ones are refused."""

    live_end_silence_ms: int = Field(800, ge=100, le=6000)
    """Pause that ends a sentence of live speech, in milliseconds, unless the client asks for another."""

    live_max_sentence_sec: float = Field(60, ge=5, le=60)
    """Live speech without a pause is cut, at its quietest place, before it gets this long, in seconds."""

    live_step_sec: float = Field(2.0, ge=0.2, le=30)
    """New audio for which Qwen3-ASR decodes a growing sentence again, in seconds."""

    live_idle_timeout_sec: float = Field(300, gt=0)
    """A live connection over which nothing came for this long is closed, in seconds."""

    live_max_connection_sec: float | None = Field(None, gt=0)
    """A live connection is ended after this, in seconds, also while somebody speaks. Not set: never."""

    nls_idle_timeout_sec: float = Field(10, gt=0)
    """As ``LIVE_IDLE_TIMEOUT_SEC``, for Aliyun's WebSocket, whose clients know 10 s of it, in seconds."""

    asr_enable_nearfield_filter: bool = True
    """Whether live sessions drop what is too quiet to come from the speaker at the microphone."""

    asr_nearfield_rms_threshold: float = Field(0.01, ge=0, le=1)
    """Level below which audio counts as far away: root mean square, as a share of full scale."""

    data_dir: Path = Path("~/.local/share/asr-serve")
    """Where jobs are kept, with their recordings; shared by all machines if replicas run on several."""

    jobs_database_url: SecretStr | None = None
    """SQLAlchemy URL of the database of jobs. Not set: SQLite, in ``data_dir``."""

    max_queued_jobs: int = Field(1000, ge=1)
    """Jobs that may wait at once; further ones get 429 and ``Retry-After``."""

    job_retention_hours: float = Field(168, gt=0)
    """How long a job and its result are kept after its end, in hours."""

    webhook_secret: SecretStr | None = None
    """Signs the webhooks of jobs that bring no secret of their own."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over ``serve_config.yaml``, so that one variable changes one run."""
        return env_settings, init_settings

    @property
    def max_audio_bytes(self) -> int:
        return int(self.max_audio_size * 1024 * 1024)
