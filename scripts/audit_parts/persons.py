"""Precision of the audit's advice on a set with known answers: drawn persons with all their expressions.

Every person has every expression in several takes, which look alike. Planted among them: exact copies, exact copies under
another label, and wrong labels. An image that the audit advises to leave out is right where it is one of these, or where a
take of the same person and expression stands in val or test; anything else counts as wrong.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fer_ignite.apps.audit.findings import Finding
from fer_ignite.apps.audit.pipeline import AuditRequest, audit
from fer_ignite.config import check
from fer_ignite.data.drawn_faces import DEMO_CLASSES, _sketch
from fer_ignite.data.exclude_list import read_exclude_list
from fer_ignite.data.readers.csv_files import iter_rows

__all__ = ["draw_persons", "main"]


def draw_persons(root: Path, *, persons: int, takes: int, seed: int) -> dict[str, str]:
    """Class folders of persons; id -> what was planted ("" for a plain image)."""
    draw = np.random.default_rng(seed)
    planted: dict[str, str] = {}

    def save(label: int, name: str, face: np.ndarray, what: str) -> None:
        file = root / DEMO_CLASSES[label] / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(face).save(file)
        planted[f"{DEMO_CLASSES[label]}/{name}.png"] = what

    for person in range(persons):
        for label in range(len(DEMO_CLASSES)):
            for take in range(takes):
                traits = np.random.Generator(np.random.Philox(key=[seed, person]))
                clean = _sketch(label, traits, 48)
                face = np.clip(clean + draw.normal(0, 4, clean.shape), 0, 255).astype(np.uint8)
                face = np.roll(face, int(draw.integers(-1, 2)), axis=1)
                name, other = f"P{person:03d}_{label}{take}", int((label + draw.integers(1, 7)) % 7)
                chance = draw.random()
                if chance < 0.04:
                    save(other, name, face, "wrong label")
                    continue
                save(label, name, face, "")
                if chance < 0.07:
                    save(label, f"{name}c", face, "copy")
                elif chance < 0.09:
                    save(other, f"{name}x", face, "contradicting copy")
    return planted


def measured(planted: dict[str, str], rows: list[Finding]) -> dict[str, Any]:
    """How many images are advised to be left out, how many of them rightly, and which planted ones are found."""
    splits = {row.id: row.split for row in rows}
    dropped = [row for row in rows if row.drop == "yes"]
    copies = {
        name.removesuffix(".png").rstrip("cx").partition("/")[2]
        for name, what in planted.items()
        if what in ("copy", "contradicting copy")
    }

    def right(row: Finding) -> bool:
        plain = row.id.partition("/")[2].removesuffix(".png").rstrip("cx")
        same = row.id.partition("/")[0], plain[:6]
        judged = any(
            splits[other] in ("val", "test")
            and (other.partition("/")[0], other.partition("/")[2][:6]) == same
            for other in splits
        )
        return planted[row.id] == "wrong label" or plain in copies or judged

    kinds = {row.id: row.kinds.split(";") for row in rows}
    wrong = [name for name, what in planted.items() if what == "wrong label"]
    return {
        "images": len(planted),
        "advised": len(dropped),
        "precision": sum(map(right, dropped)) / max(len(dropped), 1),
        "wrong_labels": len(wrong),
        "wrong_labels_listed": sum("label" in kinds.get(name, []) for name in wrong),
        "labels_listed": sum("label" in found for found in kinds.values()),
        "same_person": sum("same_person" in found for found in kinds.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/audit_persons", description=__doc__)
    parser.add_argument("--persons", type=int, default=60)
    parser.add_argument("--takes", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6, help="of the networks that score labels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None)
    wanted = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(prefix="fer-ignite-persons-") as folder:
        root = Path(folder) / "data"
        planted = draw_persons(root, persons=wanted.persons, takes=wanted.takes, seed=wanted.seed)
        for name, group_by in (("persons known", r"P\d+"), ("persons not known", None)):
            out = Path(folder) / name
            config = check({"data": str(root), "group_by": group_by, "quiet": True})
            report = audit(config, AuditRequest(out=str(out), epochs=wanted.epochs))
            table = list(iter_rows(out / "audit.csv"))
            rows = [Finding(**dict(zip(table[0][1], row, strict=True))) for _, row in table[1:]]
            found[name] = {**measured(planted, rows), "skill": report["labels"]["skill"]}
            found[name]["excluded"] = len(read_exclude_list(str(out / "audit.csv")).ids)
    for name, values in found.items():
        print(name, json.dumps(values))
    if wanted.json is not None:
        wanted.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
