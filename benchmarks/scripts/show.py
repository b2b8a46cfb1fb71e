"""The tables of results that benchmarks have written as JSON.

python benchmarks/scripts/show.py FILE.json [...]
"""

import json
import sys
from pathlib import Path

from antiphon.benchmarks.report import table


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        if path.exists():
            content = json.loads(path.read_text())
            print(f"{content['bench']}, {content['machine']}")
            print(table(content["rows"]))


if __name__ == "__main__":
    main()
