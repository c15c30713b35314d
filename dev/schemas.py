"""Write the JSON Schemas of what strangers send and read: `docs/schemas/{card,record}.json`.

python dev/schemas.py            # write
python dev/schemas.py --check    # exit code 1 where one is out of date
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mabench.schema import Card, RunRecord

OUT = Path(__file__).resolve().parent.parent / "docs" / "schemas"


def main() -> int:
    stale = 0
    for name, model in (("card", Card), ("record", RunRecord)):
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
        text, target = json.dumps(schema, indent=1, sort_keys=True) + "\n", OUT / f"{name}.json"
        if "--check" in sys.argv:
            if not target.exists() or target.read_text(encoding="utf-8") != text:
                print(f"docs/schemas/{name}.json is out of date: run python dev/schemas.py")
                stale = 1
        else:
            OUT.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    return stale


if __name__ == "__main__":
    raise SystemExit(main())
