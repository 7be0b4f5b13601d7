"""Make a bundle's ZIP from its directory: ``python examples/build.py late_pipeline late_pipeline.zip``.

Standard library only. The same files give the same bytes.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

_TIME = (1980, 1, 1, 0, 0, 0)


def build(source: Path, target: Path) -> None:
    """All files below ``source``, paths from there; byte code and hidden files stay behind."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as bundle:
        for path in sorted(source.rglob("*")):
            relative = path.relative_to(source)
            if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in relative.parts):
                bundle.writestr(zipfile.ZipInfo(relative.as_posix(), _TIME), path.read_bytes(), zipfile.ZIP_DEFLATED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", help="a directory, or the name of one of the examples")
    parser.add_argument("zip", type=Path, help="the file to write")
    arguments = parser.parse_args()
    source = Path(arguments.bundle)
    build(source if source.is_dir() else Path(__file__).parent / arguments.bundle, arguments.zip)
    print(arguments.zip)


if __name__ == "__main__":
    main()
