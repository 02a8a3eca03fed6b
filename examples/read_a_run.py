"""Read a run folder without Podium: everything in it is JSON, JSON Lines, YAML or safetensors.

python examples/read_a_run.py runs/willowbrook
"""

import json
import sys
from pathlib import Path


def stages(run: Path) -> dict[str, dict]:
    """stage.json of every finished stage, in the order they finished."""
    found = {
        path.parts[-3]: json.loads(path.read_text()) for path in run.glob("*/final/stage.json")
    }
    return dict(sorted(found.items(), key=lambda item: item[1]["finished"]))


def losses(run: Path, stage: str) -> list[tuple[int, float]]:
    """(step, loss) of a stage's metrics.jsonl; the first metric whose name ends in `loss`."""
    lines = [json.loads(line) for line in (run / stage / "metrics.jsonl").open()]
    name = next((key for line in lines for key in line if key.endswith("loss")), None)
    return [(line["step"], line[name]) for line in lines if name in line]


def main(folder: str) -> None:
    """One line a stage: what it came from, what it cost, where its loss began and ended."""
    run = Path(folder)
    for name, record in stages(run).items():
        parents = ", ".join(parent["ref"] for parent in record["parents"]) or "nothing"
        curve = losses(run, name)
        path = f"  loss {curve[0][1]:.3f} -> {curve[-1][1]:.3f}" if curve else ""
        print(f"{name:<10} from {parents:<20} {record['wall_seconds']:6.0f} s{path}")


if __name__ == "__main__":
    main(sys.argv[1])
