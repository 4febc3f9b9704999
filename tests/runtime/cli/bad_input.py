"""What is handed in gives a right result or one sentence and an exit code, never half a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pnseg_runtime.cli import cli
from pnseg_runtime.outputs import KINDS
from tests.runtime.made import SAMPLES, sample

RGB = sample("he_pink")


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def all_outputs(*stems: str) -> list[str]:
    return sorted(f"{stem}{kind.suffix}" for stem in stems for kind in KINDS.values())


def a_truncated_png() -> bytes:
    data = (SAMPLES / "he_pink.png").read_bytes()
    return data[: len(data) // 2]


def refuse_where(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, where: Path) -> None:
    """Let a function of a path raise as where permission is lacking; the superuser, as whom tests may run, has all."""
    plain = getattr(owner, name)

    def checked(path: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(path, (str, Path)) and Path(path) == where:
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, *arguments, **options)

    monkeypatch.setattr(owner, name, checked)
