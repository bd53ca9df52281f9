"""Where the scripts of this folder keep what they measure: bench/measured/scale.json, a part each."""

import datetime
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from machines import this_machine

FILE = Path(__file__).parent.parent / "measured" / "scale.json"


def keep(part, figures):
    """Replace a part, and print it."""
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    kept[part] = {"date": datetime.date.today().isoformat(), "machine": this_machine(), **figures}
    FILE.write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps(kept[part], indent=1))


def quantiles(milliseconds):
    """Median, 99th percentile and maximum."""
    found = np.percentile(milliseconds, [50, 99, 100])
    return {name: round(float(value), 3) for name, value in zip(("p50", "p99", "most"), found, strict=True)}
