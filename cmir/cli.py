"""The console script `cmir`: what a person at a terminal asks for; jobs over archives are the scripts in jobs/.

Answers go to stdout, as a table for a terminal or as JSON with --json; a refusal is one line on stderr and exit 2.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from cmir.errors import CmirError, StepError

if TYPE_CHECKING:
    from cmir.network.hearing import Heard

app = typer.Typer(
    name="cmir",
    help="Search earth-observation archives across sensors and by voice.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_WINDOW = "Part of the image: column,row,width,height in pixels."
_SECOND_EAR = "Recogniser asked beside the speech tower: pocketsphinx, or a folder or hub id of transformers."
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main() -> None:
    """Run the command line; a known error becomes one line on stderr: exit 2, or 1 where work had begun."""
    try:
        app()
    except (StepError, OSError) as error:
        _refuse(str(error), code=1)
    except CmirError as error:
        _refuse(str(error))


@app.command()
def demo(
    data: Annotated[str | None, typer.Option(help="A UC Merced folder; a generated world otherwise.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for all that the demo makes.")] = Path("demo-output"),
    scenes: Annotated[int, typer.Option(min=30, help="Scenes of the generated world.")] = 400,
    voices: Annotated[int | None, typer.Option(min=3, help="Synthetic voices; 48, or 64 with --data.")] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Minutes of training; 5 or what the other steps leave of 8, 20 with --data.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of world, voices and training.")] = 0,
) -> None:
    """From a source to an answered query: shard, train, embed, index, evaluate, serve, ask."""
    from cmir.demo import DemoSettings, run_demo

    run_demo(DemoSettings(output.absolute(), data, scenes, voices, max_minutes, seed))


@app.command()
def serve(
    gallery: Annotated[str, typer.Option(help="Gallery to serve: what is published there.")],
    bundle: Annotated[str | None, typer.Option(help="Bundle; the published one otherwise.")] = None,
    composition: Annotated[str, typer.Option(help="fused or split.")] = "fused",
    second_ear: Annotated[str | None, typer.Option(help=_SECOND_EAR)] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    api_keys_file: Annotated[
        str | None, typer.Option(help="Hashed API keys (python -m serve.keys NAME); CMIR_API_KEYS_FILE otherwise.")
    ] = None,
    open_to_all: Annotated[bool, typer.Option("--open-to-all", help="Other hosts than loopback without keys.")] = False,
) -> None:
    """Keep the service up until it is interrupted."""
    flags = ["--gallery", gallery, "--composition", composition, "--host", host, "--port", str(port)]
    flags += ["--bundle", bundle] if bundle else []
    flags += ["--second-ear", second_ear] if second_ear else []
    flags += ["--api-keys-file", api_keys_file] if api_keys_file else []
    flags += ["--open-to-all"] if open_to_all else []
    # in the place of this process, so that every signal to it reaches the service and none is left behind
    os.execv(sys.executable, [sys.executable, "-m", "serve", *flags])


@app.command()
def search(
    image: Annotated[str | None, typer.Option(help="Ask by an image file.")] = None,
    speech: Annotated[str | None, typer.Option(help="Ask by a sound file.")] = None,
    label: Annotated[str | None, typer.Option(help="Ask by a label's prototype.")] = None,
    item: Annotated[str | None, typer.Option(help="Ask by an item of the gallery.")] = None,
    modality: Annotated[str | None, typer.Option(help="Of the image: pan, ms or rgb; told by its bands.")] = None,
    sensor: Annotated[str | None, typer.Option(help="Of the image, as the archive names it.")] = None,
    window: Annotated[str | None, typer.Option(help=_WINDOW)] = None,
    target: Annotated[str | None, typer.Option(help="Modalities to find, as a,b; all otherwise.")] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=1000, help="Number of hits.")] = 10,
    url: Annotated[str | None, typer.Option(help="Ask a running service.")] = None,
    gallery: Annotated[str | None, typer.Option(help="Ask a gallery directly, without a service.")] = None,
    second_ear: Annotated[str | None, typer.Option(help=_SECOND_EAR + " With --gallery.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find items by an image, a spoken word, a label or another item."""
    from cmir.asking import Question, ask_gallery, ask_service, window_of

    question = Question(image=image, speech=speech, label=label, item=item, modality=modality, sensor=sensor,
                        window=window_of(window) if window else None,
                        targets=tuple(target.split(",")) if target else (), k=k, second_ear=second_ear)  # fmt: skip
    if (url is None) == (gallery is None):
        _refuse("give one of --url (a running service) and --gallery (no service needed)")
    hits = ask_service(url, question) if url else ask_gallery(gallery or "", question, on_heard=_say_heard)
    if as_json:
        print(json.dumps([asdict(hit) for hit in hits], default=str))
        return
    table = Table("rank", "score", "modality", "labels", "class", "source")
    for hit in hits:
        score = f"{hit.score:.3f}"
        table.add_row(
            str(hit.rank), score, hit.modality, ", ".join(hit.labels), hit.scene_class or "", hit.source_uri[-60:]
        )
    Console().print(table)


@app.command()
def embed(
    file: Annotated[str, typer.Argument(help="Image or sound file.")],
    bundle: Annotated[str, typer.Option(help="Trained bundle.")],
    modality: Annotated[str | None, typer.Option(help="pan, ms, rgb or speech; told by the file otherwise.")] = None,
    sensor: Annotated[str | None, typer.Option(help="Of an image, as the archive names it.")] = None,
    window: Annotated[str | None, typer.Option(help=_WINDOW)] = None,
) -> None:
    """Print the unit vector of one file as JSON: {vector, space_id}."""
    from cmir.asking import embed_file, window_of
    from cmir.network.embedder import Embedder

    embedder = Embedder.open(bundle)
    vector = embed_file(embedder, file, modality, sensor, window_of(window) if window else None)
    print(json.dumps({"vector": [float(value) for value in vector], "space_id": embedder.space_id}))


@app.command()
def info(
    uri: Annotated[str, typer.Argument(help="An archive, a bundle or a gallery.")], as_json: AsJson = False
) -> None:
    """Say what lies at a URI: counts of an archive, card of a bundle, state of a gallery."""
    from cmir.inspecting import describe

    _print_mapping(describe(uri), as_json)


@app.command()
def validate(shards: Annotated[list[str], typer.Argument(help="Archives, folders or shards.")]) -> None:
    """Read and decode every row of an archive; exit 1 where any is bad."""
    from cmir.inspecting import validate_shards

    found = validate_shards(shards)
    for problem in found.problems:
        print(problem, file=sys.stderr)
    print(json.dumps({"num_rows": found.num_rows, "num_bad": found.num_bad, "num_shards": found.num_shards}))
    raise typer.Exit(1 if found.num_bad else 0)


@app.command()
def export(
    gallery: Annotated[str, typer.Option(help="Gallery to read.")],
    output: Annotated[str, typer.Option(help="Parquet file to write.")],
    space: Annotated[str | None, typer.Option(help="Space; the published one otherwise.")] = None,
) -> None:
    """Write vectors and metadata of a gallery to one GeoParquet file."""
    from cmir.inspecting import export_gallery

    print(json.dumps({"output": output, "num_rows": export_gallery(gallery, output, space)}))


@app.command()
def doctor() -> None:
    """Check what this machine has: versions, devices, speech engines, storage; exit 1 where a need is missing."""
    from cmir.inspecting import examine_machine

    findings = examine_machine()
    table = Table("part", "state", "", box=None)
    for finding in findings:
        table.add_row(finding.part, {True: "ok", False: "MISSING", None: "-"}[finding.is_fine], finding.detail)
    Console().print(table)
    raise typer.Exit(1 if any(finding.is_fine is False for finding in findings) else 0)


def _say_heard(heard: "Heard") -> None:
    """One line on stderr: what a recording was taken to name, and by whom."""
    named = ", ".join(label for label, _ in heard.labels)
    by = f"second ear, {heard.confidence:.2f}" if heard.confidence is not None else "speech tower"
    print(f"heard: {named} ({by})", file=sys.stderr)


def _print_mapping(described: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(described, default=str))
        return
    table = Table(show_header=False, box=None)
    for name, value in described.items():
        table.add_row(name, value if isinstance(value, str) else json.dumps(value, default=str))
    Console().print(table)


def _refuse(message: str, code: int = 2) -> NoReturn:
    print(f"cmir: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
