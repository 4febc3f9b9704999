"""``pnseg view``: look at a result in the browser."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from pnseg_runtime.view.result import open_view
from pnseg_runtime.view.server import Server

_EPILOG = """\b
Examples:
  pnseg view results/
  pnseg view results/slide.run.json --slide /mnt/slides/slide.svs
  pnseg view pnseg-out/tile.geojson --slide tile.png

\b
On another machine: ssh -L 8000:127.0.0.1:8000 HOST, then there: pnseg view results/ --port 8000 --no-browser
"""


@click.command(epilog=_EPILOG)
@click.argument("result", type=click.Path(path_type=Path))
@click.option("--slide", type=click.Path(path_type=Path), help="The slide or image, if it is not where it was.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port on this machine [default: any that is free]."
)
@click.option("--browser/--no-browser", default=True, show_default=True, help="Open the page in the browser.")
def view(result: Path, slide: Path | None, port: int, browser: bool) -> None:
    """Show a result on top of its slide.

    RESULT is a folder that pnseg slide has written to, one of its .run.json files, or a .geojson of
    pnseg predict with the image as --slide. The page is served to this machine alone until Ctrl-C.
    """
    with Server(open_view(result, slide), port) as server:
        click.echo(f"{server.address} (Ctrl-C ends it)")
        if browser:
            webbrowser.open(server.address)
        server.serve_forever()
