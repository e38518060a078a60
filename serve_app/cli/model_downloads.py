"""``asr-serve models pull``, ``pack``, ``unpack``, ``verify`` and ``prune``: what they take and print."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console

from deployments.catalogue import CatalogueError, ModelRefused, load_catalogue
from serve_app.cli.common import fail
from serve_app.errors import ModelNotFound
from serve_app.model_hub.errors import ModelHubError
from serve_app.model_hub.selection import HubChoice, profile, select
from serve_app.settings import Settings

_MB = 1e6

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Names of `asr-serve models list`, aliases, or ids on a hub."),
]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        "-p",
        help="All models for a machine: cpu, gpu, or gpu-large (32 GB of its memory and more); or enabled: "
        "those that the settings name.",
    ),
]
LocalDir = Annotated[
    Path | None, typer.Option(help="Where they go, instead of the cache of their hub.", file_okay=False)
]
Config = Annotated[Path, typer.Option(help="Ray Serve config file, which may have settings.")]

DEFAULT_CONFIG = Path("serve_config.yaml")


def add_commands(app: typer.Typer) -> None:
    """Add these commands to ``asr-serve models``."""
    for name, command in (
        ("pull", pull_models),
        ("pack", pack_models),
        ("unpack", unpack_models),
        ("verify", verify_models),
        ("prune", prune_models),
    ):
        app.command(name)(command)


def pull_models(
    names: Names = None,
    profile_: Profile = None,
    hub: Annotated[
        HubChoice, typer.Option(help="auto: ModelScope, and Hugging Face where that does not answer.")
    ] = "auto",
    local_dir: LocalDir = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="As ONNX graphs.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit on the hub.")] = None,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Download models, or what is missing of them, and compare every file with its hub's hashes.

    What was interrupted goes on where it was. Mirrors are named by MODELSCOPE_ENDPOINT and HF_ENDPOINT, a
    proxy by HTTPS_PROXY.
    """
    from serve_app.model_hub.progress import Bars
    from serve_app.model_hub.pull import pull

    # Kept, since the hubs' own bars are silenced by taking standard error away.
    console = Console(file=sys.stderr)
    with _told("What came so far is kept; the same command goes on with it."):
        settings = _settings(config)
        chosen = _references(names, profile_, settings)
        catalogue = load_catalogue(settings.models_file)
        wanted = select(chosen, catalogue, hub, onnx=onnx, if_published=profile_ is not None)
        for model in wanted:
            where = local_dir
            if local_dir is not None and len(wanted) > 1:
                where = local_dir / model.sources[0][1].partition("/")[2]
            done = pull(model, settings.modelscope_path, Bars(console), local_dir=where, revision=revision)
            came = f"{done.fetched / _MB:.1f} MB came" if done.fetched else "it was here"
            print(f"{done.name}: whole, all hashes match ({came}): {done.directory}")


def pack_models(
    output: Annotated[
        str, typer.Option("--output", "-o", help="A .tar, .tar.gz or .tar.zst; - for standard output.")
    ],
    names: Names = None,
    profile_: Profile = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Put models that are here into one tar, with the hashes of their files, for a site without a network."""
    from serve_app.model_hub.pack import pack

    if output != "-" and Path(output).exists() and not force:
        fail(f"{output} is there already. Give another name, or --force.")
    with _told(f"{output} was not written."):
        settings = _settings(config)
        chosen = _references(names, profile_, settings)
        manifest = pack(chosen, load_catalogue(settings.models_file), settings.modelscope_path, output)
        for model in manifest.models:
            line = f"{model.name}: {len(model.files)} files, {model.size / _MB:.1f} MB, {model.id}"
            print(line, file=sys.stderr if output == "-" else sys.stdout)


def unpack_models(
    file: Annotated[str, typer.Argument(help="A tar of `asr-serve models pack`; - for standard input.")],
    local_dir: LocalDir = None,
) -> None:
    """Unpack a tar to where a server finds the models, once all files are as they should be."""
    from serve_app.model_hub.unpack import unpack

    with _told("Nothing was unpacked."):
        for done in unpack(file, Settings().modelscope_path, local_dir):
            what = "in place of what was there" if done.replaced else "new here"
            print(f"{done.name}: whole, all hashes match ({what}): {done.directory}")


def verify_models(names: Names = None) -> None:
    """Compare models that are here with the hashes of their hub; without names, all of them."""
    from serve_app.model_hub.verify import verify

    damaged = 0
    with _told():
        settings = Settings()
        for verdict in verify(names or [], load_catalogue(settings.models_file), settings.modelscope_path):
            damaged += verdict.problem is not None
            if verdict.compared:
                fine = f"whole, the hashes of {verdict.compared} files match"
            else:
                fine = "whole, as far as its files tell by themselves; there are no hashes to compare with"
            print(f"{verdict.name}: {verdict.problem or fine}: {verdict.directory}")
    if damaged:
        fail(f"Damaged: {damaged}. `asr-serve models pull` with their names fetches what is wrong again.")


def prune_models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Models that stay besides.")
    ] = None,
    profile_: Annotated[
        str | None, typer.Option("--profile", "-p", help="A profile whose models stay besides.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Remove from the hubs' caches the models of the catalogue that the settings do not name.

    Old revisions and downloads that were cut off go too. Models that the catalogue does not know stay.
    """
    from serve_app.enabled_models import choose_models
    from serve_app.model_hub.needs import references
    from serve_app.model_hub.prune import leftovers, remove

    with _told("Nothing was removed."):
        settings = _settings(config)
        served = references(choose_models(settings).settings)
        stay = [*(names or []), *(_profile(profile_, settings) if profile_ else ()), *served]
        found = leftovers(stay, load_catalogue(settings.models_file), settings.modelscope_path)
        if not found:
            print("There is nothing to remove.")
            return
        for leftover in found:
            print(f"{leftover.size / _MB:10.1f} MB  {leftover.path}: {leftover.why}")
        total = sum(leftover.size for leftover in found) / _MB
        if not yes and not typer.confirm(f"Remove {total:.1f} MB?", err=True):
            print("Nothing was removed.")
            return
        for leftover in found:
            remove(leftover)
        print(f"{total:.1f} MB were removed.")


def _references(names: Sequence[str] | None, profile_name: str | None, settings: Settings) -> Sequence[str]:
    if bool(names) is (profile_name is not None):
        raise ModelHubError("Give names of models, or --profile and the name of one.")
    return names or _profile(str(profile_name), settings)


def _profile(name: str, settings: Settings) -> Sequence[str]:
    if name != "enabled":
        return profile(name)
    from serve_app.enabled_models import choose_models
    from serve_app.model_hub.needs import fetchable, references

    # As a start would choose that may fetch what is missing.
    asked = settings.model_copy(update={"download_models": True})
    found = fetchable(references(choose_models(asked).settings), asked)
    if not found:
        raise ModelHubError("The settings name no model that a hub has.")
    return found


def _settings(config: Path) -> Settings:
    """Those of the environment, and of the config file where there is one."""
    content: Any = {}
    if config.is_file():
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    elif config != DEFAULT_CONFIG:
        raise ModelHubError(f"There is no {config}.")
    applications = content.get("applications") if isinstance(content, dict) else None
    given = (applications[0].get("args") or {}) if applications else {}
    return Settings(**given)


@contextmanager
def _told(interrupted: str = "") -> Iterator[None]:
    """What goes wrong ends the command with a sentence, Ctrl-C with 130."""
    try:
        yield
    except (ModelHubError, CatalogueError, ModelNotFound, ModelRefused) as error:
        fail(str(error))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        fail(f"A setting is wrong: {wrong}.")
    except yaml.YAMLError as error:
        fail(f"The config file is not YAML: {error}")
    except BrokenPipeError:
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        Console(stderr=True).print(f"\nInterrupted. {interrupted}", soft_wrap=True)
        sys.stdout.flush()
        # The hubs' clients fetch in threads for which the interpreter would wait until their files are whole.
        os._exit(130)
