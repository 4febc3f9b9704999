"""A click group that imports a verb when it is run and turns errors into one line."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import IO, Any

import click
from click.shell_completion import CompletionItem

from pnseg_runtime.cli.log import LOGGER, configure
from pnseg_runtime.cli.verbs import LIBRARY_NAMES, Verb
from pnseg_runtime.errors import PnsegError

OWN_PACKAGES = ("pnseg_runtime", "pnseg_train", "pnseg_export")


class Failure(click.ClickException):
    """One red line on standard error and exit code 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        show_error(self.format_message(), file)


class MissingExtra(Failure):
    """A verb's optional dependencies are not installed."""

    exit_code = 2


def show_error(sentence: str, file: IO[Any] | None = None) -> None:
    """Print an error sentence, red where there is colour."""
    click.secho(f"Error: {sentence}", fg="red", file=file, err=file is None, color=_color())


def show_warning(sentence: str) -> None:
    """Print what a user should look at, yellow where there is colour."""
    click.secho(f"Warning: {sentence}", fg="yellow", err=True, color=_color())


def _color() -> bool | None:
    """No colour where NO_COLOR asks for none (no-color.org); otherwise as the stream is a terminal."""
    return False if os.environ.get("NO_COLOR") else None


class LazyGroup(click.Group):
    """The group ``pnseg``; its help and the completion of verbs' names import none."""

    def __init__(self, name: str, verbs: Sequence[Verb]) -> None:
        super().__init__(
            name,
            help="Find and outline nuclei in histology images.",
            epilog="Begin with: pnseg predict IMAGE. The help of each command, as pnseg predict --help, has examples.",
            params=[
                click.Option(["-v", "--verbose"], is_flag=True, help="Log what is done, and tracebacks."),
                click.Option(
                    ["--version"],
                    is_flag=True,
                    is_eager=True,
                    expose_value=False,
                    callback=_print_version,
                    help="Show the version and exit.",
                ),
            ],
            callback=lambda verbose: configure(verbose=verbose),
        )
        self.verbs = {verb.name: verb for verb in verbs}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = self.verbs.get(cmd_name)
        if verb is None:
            return None
        try:
            return load_verb(verb)
        except MissingExtra:
            if ctx.resilient_parsing:  # completion of a verb that cannot be run has no options to offer
                return click.Command(verb.name, help=verb.help)
            raise

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names and help of verbs as click gives them, but without importing one."""
        named = [verb for verb in self.verbs.values() if verb.name.startswith(incomplete)]
        return [
            *(CompletionItem(verb.name, help=verb.help) for verb in named),
            *click.Command.shell_complete(self, ctx, incomplete),
        ]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb.name, _help_line(verb)) for verb in self.verbs.values()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PnsegError as error:
            LOGGER.debug("failed", exc_info=True)
            raise Failure(str(error)) from error
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)


def load_verb(verb: Verb) -> click.Command:
    """Import a verb's command.

    Raises:
        MissingExtra: a library of the verb's extra is not installed or does not start.
    """
    module, _, attribute = verb.target.partition(":")
    try:
        command: click.Command = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        library = (error.name or "").partition(".")[0]
        if verb.extra is None or not library or library in OWN_PACKAGES:
            raise
        needed = LIBRARY_NAMES.get(library, library)
        raise MissingExtra(f'pnseg {verb.name} needs {needed}: pip install "pnseg[{verb.extra}]"') from error
    return command


def _help_line(verb: Verb) -> str:
    return verb.help if verb.extra is None else f'{verb.help} Needs "pnseg[{verb.extra}]".'


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    click.echo(f"pnseg {package_version()}")
    ctx.exit()


def package_version() -> str:
    """The installed version; a checkout that was never installed has none."""
    try:
        return version("pnseg")
    except PackageNotFoundError:
        return "(not installed)"
