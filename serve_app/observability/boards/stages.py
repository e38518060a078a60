"""Each stage of the graph: its queue, its work, its replicas."""

from deployments import metrics as m
from serve_app.observability.panels import STAGE, Board, panel_of, spread
from serve_app.observability.queries import STEP, events, growth, largest, quantile, rate, ratio, total

STAGES = Board(
    "asr-stages",
    "asr-serve: stages, queues, autoscaling",
    (
        (
            "Queues",
            (
                panel_of(
                    "Audio that waits",
                    "s",
                    "Seconds of audio that no batch has taken, in all replicas: what autoscaling looks at.",
                    (total(m.WAITING_AUDIO), f"{STAGE} waits"),
                    (total(m.RUNNING_AUDIO), f"{STAGE} runs"),
                ),
                panel_of(
                    "Items that wait",
                    "short",
                    "Segments, chunks or texts that no batch has taken: Punctuation has no audio.",
                    (total(m.WAITING_ITEMS), STAGE),
                ),
                panel_of("Oldest wait", "s", "In any replica.", (largest(m.OLDEST_WAIT), STAGE)),
                panel_of(
                    "Wait before a batch",
                    "s",
                    "95 % of the items waited less.",
                    (quantile(0.95, m.QUEUE_SECONDS), STAGE),
                ),
            ),
        ),
        (
            "Work",
            (
                panel_of(
                    "Busy",
                    "percentunit",
                    "Share of the last 10 s in which a model worked: mean of the replicas, and the busiest.",
                    (f"avg by (deployment) ({m.BUSY_SHARE.exported})", f"{STAGE} mean"),
                    (largest(m.BUSY_SHARE), f"{STAGE} busiest"),
                ),
                panel_of(
                    "RTF",
                    "short",
                    "Seconds of work per second of audio. Calls of Qwen3-ASR overlap: each counts.",
                    (ratio(rate(m.BUSY_SECONDS), rate(m.AUDIO_SECONDS)), f"{STAGE} mean"),
                    (quantile(0.95, m.STAGE_RTF), f"{STAGE} p95"),
                ),
                panel_of(
                    "Time until all is done",
                    "s",
                    "For what waits and runs, at the speed so far; of the replica that has most.",
                    (largest(m.DRAIN_SECONDS), STAGE),
                ),
                panel_of(
                    "Items in a batch",
                    "short",
                    "Mean. Near 1 under load: the budget of a batch is too small.",
                    (ratio(events(m.QUEUE_SECONDS), events(m.BATCH_ITEMS)), STAGE),
                ),
                panel_of(
                    "Fill of batches",
                    "percentunit",
                    "Share of its budget that half of the batches used, and all but one of twenty.",
                    *spread(m.BATCH_FILL, "deployment", STAGE),
                ),
                panel_of(
                    "Speed of a model",
                    "x",
                    "Seconds of audio that it works off in a second of work.",
                    (f"avg by (deployment) ({m.MODEL_SPEED.exported})", STAGE),
                ),
            ),
        ),
        (
            "Replicas",
            (
                panel_of(
                    "Replicas",
                    "short",
                    "Those that are healthy, and as many as autoscaling wants.",
                    ("sum by (deployment) (ray_serve_deployment_replica_healthy)", f"{STAGE} healthy"),
                    ("max by (deployment) (ray_serve_autoscaling_target_replicas)", f"{STAGE} wanted"),
                ),
                panel_of(
                    "Starts of replicas",
                    "short",
                    "More than autoscaling asks for: they die.",
                    (
                        f"sum by (deployment) (increase(ray_serve_deployment_replica_starts_total[{STEP}]))",
                        STAGE,
                    ),
                ),
                panel_of(
                    "Calls made again",
                    "short",
                    "Since the replica that worked on them was lost. No client noticed.",
                    (growth(m.LOST_CALLS, "stage"), "{{stage}}"),
                ),
                panel_of(
                    "Time to load",
                    "s",
                    "What a new replica needs before it can work.",
                    (largest(m.MODEL_LOAD), STAGE),
                ),
                panel_of(
                    "Memory of replicas",
                    "bytes",
                    "Resident, of all replicas of a deployment.",
                    (
                        'sum by (Component) (ray_component_rss_bytes{Component=~"ray::ServeReplica:[^.]*"})',
                        "{{Component}}",
                    ),
                ),
                panel_of(
                    "GPU memory of replicas",
                    "bytes",
                    "What PyTorch has reserved; vLLM and ONNX Runtime: see the machines.",
                    (total(m.GPU_MEMORY), STAGE),
                ),
            ),
        ),
    ),
)
