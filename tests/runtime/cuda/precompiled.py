"""A C++ compiler that reads Boost.Python once for all of PyCUDA's files: ``python precompiled.py FOLDER g++ OPTIONS…``.

That reading is most of the time each file takes. What has been read serves files with the same options alone, so it is
read with those of the first file; for others the compiler falls back to the header.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PRELUDE = "#if __has_include(<boost/python.hpp>)\n#include <boost/python.hpp>\n#endif\n"


def options_of(command: list[str]) -> list[str]:
    """A command without the file that it compiles and the one that it writes."""
    return [word for before, word in zip(["", *command], command, strict=False) if not {before, word} & {"-c", "-o"}]


def with_prelude(folder: Path, command: list[str]) -> list[str]:
    """A command that compiles a file, with what was read before; any other as it is."""
    if "-c" not in command:
        return command
    header = folder / "prelude.h"
    if not header.exists():
        header.write_text(PRELUDE, encoding="utf-8")
        subprocess.run([*options_of(command), "-x", "c++-header", header, "-o", f"{header}.gch"], check=True)
    return [*command, "-include", str(header)]


if __name__ == "__main__":
    sys.exit(subprocess.run(with_prelude(Path(sys.argv[1]), sys.argv[2:]), check=False).returncode)
