"""Machines and GPUs, as Ray counts them."""

from serve_app.observability.panels import NODE, Board, panel_of

MACHINES = Board(
    "asr-machines",
    "asr-serve: machines and GPUs",
    (
        (
            "Machines",
            (
                panel_of("CPU", "percent", "Of all cores.", ("ray_node_cpu_utilization", NODE)),
                panel_of(
                    "Memory",
                    "percentunit",
                    "At 95 % Ray ends workers.",
                    ("ray_node_mem_used / ray_node_mem_total", NODE),
                ),
                panel_of(
                    "Disk", "percent", "Where Ray writes.", ("ray_node_disk_utilization_percentage", NODE)
                ),
                panel_of(
                    "Network",
                    "Bps",
                    "Audio that crosses machines is in it.",
                    ("ray_node_network_receive_speed", f"{NODE} in"),
                    ("ray_node_network_send_speed", f"{NODE} out"),
                ),
                panel_of(
                    "Object store",
                    "bytes",
                    "Decoded audio of the files that are worked on.",
                    ("sum by (instance) (ray_object_store_used_memory)", NODE),
                ),
                panel_of(
                    "Processors of components",
                    "percent",
                    "100 is one core.",
                    (
                        'sum by (Component) (ray_component_cpu_percentage{Component=~"ray::Serve[^.]*"})',
                        "{{Component}}",
                    ),
                ),
            ),
        ),
        (
            "GPUs",
            (
                panel_of(
                    "Busy",
                    "percent",
                    "Of each GPU.",
                    ("ray_node_gpus_utilization", f"{NODE} {{{{GpuIndex}}}}"),
                ),
                panel_of(
                    "Memory",
                    "percentunit",
                    "Of each GPU.",
                    (
                        "ray_node_gram_used / (ray_node_gram_used + ray_node_gram_available)",
                        f"{NODE} {{{{GpuIndex}}}}",
                    ),
                ),
                panel_of(
                    "Memory by component",
                    "bytes",
                    "As the driver counts it, vLLM and ONNX Runtime included.",
                    ("sum by (Component) (ray_component_gpu_memory_mb) * 1048576", "{{Component}}"),
                ),
            ),
        ),
    ),
)
