"""The tables of results that benchmarks have written as JSON.

    python benchmarks/scripts/show.py FILE.json [...]

Files that are missing are named, and end it with status 1.
"""

import json
import sys
from pathlib import Path

from antiphon.benchmarks.report import table


def main() -> None:
    paths = [Path(argument) for argument in sys.argv[1:]]
    missing = [str(path) for path in paths if not path.exists()]
    for path in paths:
        if path.exists():
            content = json.loads(path.read_text())
            print(f"{content['bench']}, {content['machine']}")
            print(table(content["rows"]))
    if missing:
        sys.exit(f"missing: {', '.join(missing)}")


if __name__ == "__main__":
    main()
