"""Builds an image step by step where no Docker engine is at hand, starts it, and uses it.

    python -m tests.docker_steps cpu
    python -m tests.docker_steps cpu --stand-in --build-arg TORCH_INDEX=file:///index --volume ~/index:/index

Needs root, and buildah (of the package of the same name), which runs every instruction of the Dockerfile as
Docker would. The container is made of what the kernel has: namespaces of its own for mounts, processes and
network, the image as a root that cannot be written, and the user, environment, entrypoint and command of the
image. ``--stand-in`` makes the base image from Debian's packages (mmdebstrap) and this Python, where
Docker's registry cannot be reached.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

STAND_IN = "localhost/asr-serve-base"
# What the real base has below its Python.
LIBRARIES = (
    "ca-certificates,netbase,tzdata,libssl3,libffi8,libsqlite3-0,libbz2-1.0,liblzma5,zlib1g,libreadline8,"
    "libncursesw6,libuuid1,libexpat1"
)
STAND_IN_STEPS = """
FROM scratch
ADD debian.tar /
ADD python.tar /usr/local/
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
RUN ldconfig && ln -s python3.11 /usr/local/bin/python3 && ln -s python3.11 /usr/local/bin/python
"""

# $1: the image's root; $2: its user; $3: its directory; the rest: what it runs.
CONTAINER = """
set -e
root=$1 user=$2 directory=$3
shift 3
ip link set lo up
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sys "$root/sys"
mount -t tmpfs -o mode=755 dev "$root/dev"
for name in null zero full random urandom; do
  touch "$root/dev/$name"
  mount --bind "/dev/$name" "$root/dev/$name"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/shm"
mount -t tmpfs -o size=1g,mode=1777 shm "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o "mode=700,uid=$user" data "$root/data"
mount -o remount,ro,bind "$root"
exec chroot --userspec="$user:$user" "$root" sh -c 'cd "$0" && exec "$@"' "$directory" "$@"
"""

READY_SECONDS = 300
STOP_SECONDS = 60


class Failed(Exception):
    """A step failed; the message says which."""


@dataclass(frozen=True, slots=True)
class Image:
    """A built image: where its files are, and what it says about how it is run."""

    root: Path
    environment: dict[str, str]
    user: str
    directory: str
    command: list[str]
    probe: list[str]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Build an image without Docker, start it, and use it.")
    parser.add_argument("kind", choices=["cpu", "gpu"])
    parser.add_argument("--stand-in", action="store_true", help="make the base image of Debian's packages")
    parser.add_argument("--build-arg", action="append", default=[], help="as for docker build")
    parser.add_argument("--volume", action="append", default=[], help="host:image[:ro], while it is built")
    parser.add_argument("--build-only", action="store_true", help="do not start it")
    parser.add_argument("--built", action="store_true", help="start what was built last")
    given = parser.parse_args(arguments)
    build_args = [*given.build_arg]
    try:
        if given.stand_in and not given.built:
            _timed("base image", make_stand_in)
            build_args.append(f"PYTHON_IMAGE={STAND_IN}")
        name = f"localhost/asr-serve:{given.kind}-check"
        if not given.built:
            _timed("build", lambda: build(given.kind, name, build_args, given.volume))
        with mounted(name) as image:
            report_size(image)
            if not given.build_only:
                check(image)
    except (Failed, subprocess.CalledProcessError) as error:
        sys.exit(str(error))


def make_stand_in() -> None:
    """Make an image with Debian's and this Python's files where the real one has them."""
    base, version = Path(sys.base_prefix), sysconfig.get_python_version()
    with tempfile.TemporaryDirectory() as directory:
        context = Path(directory)
        _run(
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={LIBRARIES}",
            "bookworm",
            context / "debian.tar",
        )
        there = [f"bin/python{version}", f"lib/python{version}", f"include/python{version}"]
        there += [str(path.relative_to(base)) for path in base.glob(f"lib/libpython{version}.so*")]
        left_out = ["site-packages/*", "__pycache__", f"lib/python{version}/test", "*.a"]
        options = [f"--exclude={pattern}" for pattern in left_out]
        _run("tar", "-C", base, "-cf", context / "python.tar", *options, *there)
        (context / "Dockerfile").write_text(STAND_IN_STEPS)
        _buildah("build", "--isolation", "chroot", "-t", STAND_IN, context)


def build(kind: str, name: str, build_args: Sequence[str], volumes: Sequence[str]) -> None:
    """Run every instruction of the Dockerfile."""
    options = [f"--build-arg={item}" for item in build_args] + [f"--volume={item}" for item in volumes]
    steps = ROOT / "docker" / f"{kind}.Dockerfile"
    _buildah(
        "build",
        # As Docker stores it: OCI's own format has no HEALTHCHECK.
        *("--format", "docker", "--isolation", "chroot", "--network", "host", "--layers"),
        *options,
        *("-f", steps, "-t", name, ROOT),
    )


@contextmanager
def mounted(name: str) -> Iterator[Image]:
    """The image ``name``, with its files in a directory as long as the context is open."""
    container = _output("buildah", "from", "--pull-never", name)
    try:
        described = json.loads(_output("buildah", "inspect", "--type", "container", container))["Docker"][
            "config"
        ]
        yield Image(
            root=Path(_output("buildah", "mount", container)),
            environment=dict(item.split("=", 1) for item in described["Env"]),
            user=described["User"],
            directory=described["WorkingDir"],
            command=[*described["Entrypoint"], *described["Cmd"]],
            probe=described["Healthcheck"]["Test"][1:],
        )
    finally:
        _output("buildah", "rm", container)


def report_size(image: Image) -> None:
    """Print how large the image is, and its largest parts."""
    places = ("", "opt/asr", "app", "models")
    sizes = [int(_output("du", "-sxm", image.root / place).split()[0]) for place in places]
    print(", ".join(f"/{place}: {size} MB" for place, size in zip(places, sizes, strict=True)), flush=True)


def check(image: Image) -> None:
    """Start the image, ask it as README.md does, and stop it.

    Raises:
        Failed: something is not as it should be.
    """
    started = time.monotonic()
    with tempfile.NamedTemporaryFile() as log, running(image, log.fileno()) as (process, inside):
        try:
            _wait_until_healthy(process, [*inside, *image.probe])
            print(f"ready after {time.monotonic() - started:.1f} s", flush=True)
            said = Path(log.name).read_text(encoding="utf-8").splitlines()
            print(*(line for line in said if line.startswith("Serving with")), flush=True)
            _ask(inside)
            _look_around(image, inside)
            _stop(process, int(inside[2]))
        except BaseException:
            print(Path(log.name).read_text(encoding="utf-8"), file=sys.stderr)
            raise


def _ask(inside: Sequence[str]) -> None:
    """Transcribe the samples with the network of the container and the files of this machine."""
    written = json.loads((ROOT / "samples" / "written.json").read_text(encoding="utf-8"))
    for name, text in written.items():
        url = "http://127.0.0.1:8000/v1/audio/transcriptions"
        command = ["curl", "-sF", f"file=@{ROOT / 'samples' / name}", url]
        answer = json.loads(_output("nsenter", "--target", inside[2], "--net", *command))
        print(f"{name}: {answer['text']}", flush=True)
        if answer["text"] != text:
            raise Failed(f"{name} was not recognized: it says {text}")


def _look_around(image: Image, inside: Sequence[str]) -> None:
    """What Kubernetes and docs/deployment.md expect of the image."""
    if _output(*inside, "id", "-u") != image.user:
        raise Failed(f"The user is not {image.user}.")
    for program in ("bash", "wget", "ray", "serve", "asr-serve"):
        _output(*inside, "which", program)
    # Where other projects' images have the caches of hubs.
    for cache in ("modelscope", "huggingface"):
        if _output(*inside, "realpath", f"/root/.cache/{cache}") != f"/models/{cache}":
            raise Failed(f"/root/.cache/{cache} does not lead to /models.")
    _output(*inside, "asr-serve", "models", "list", "--here")


def _stop(process: subprocess.Popen[bytes], process_1: int) -> None:
    asked = time.monotonic()
    os.kill(process_1, signal.SIGTERM)
    status = process.wait(STOP_SECONDS)
    print(f"stopped after {time.monotonic() - asked:.1f} s", flush=True)
    if status:
        raise Failed(f"It was asked to stop, and ended with status {status}.")


@contextmanager
def running(image: Image, log: int) -> Iterator[tuple[subprocess.Popen[bytes], list[str]]]:
    """The container, and the words before a command that is to run in it."""
    # When the context ends, so does process 1 of the container, and with it all others.
    unshare = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child"]
    command = [*unshare, "bash", "-c", CONTAINER, "container", str(image.root), image.user, image.directory]
    with subprocess.Popen(
        [*command, *image.command], env=image.environment, stdout=log, stderr=log
    ) as process:
        try:
            time.sleep(1)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            if not children:
                raise Failed("The container could not be made.")
            namespaces = ["--mount", "--pid", "--net", "--root", "--wd"]
            user = ["--setuid", image.user, "--setgid", image.user]
            inside = ["nsenter", "--target", children[0], *namespaces, *user, "env", "-i"]
            yield process, [*inside, *(f"{name}={value}" for name, value in image.environment.items())]
        finally:
            process.kill()


def _wait_until_healthy(process: subprocess.Popen[bytes], probe: Sequence[str]) -> None:
    end = time.monotonic() + READY_SECONDS
    while subprocess.run(probe, capture_output=True, check=False).returncode:
        if process.poll() is not None:
            raise Failed(f"It ended, with status {process.returncode}.")
        if time.monotonic() > end:
            raise Failed(f"It was not healthy after {READY_SECONDS} s.")
        time.sleep(0.5)


def _timed(what: str, work: Callable[[], None]) -> None:
    started = time.monotonic()
    work()
    print(f"{what}: {time.monotonic() - started:.0f} s", flush=True)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def _buildah(*arguments: str | Path) -> None:
    _run("buildah", *arguments)


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
