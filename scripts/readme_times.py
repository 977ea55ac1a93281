"""Times the README's commands on a terminal of 80 columns: to the first printed character (and the processor's share
of that, which does not depend on what else the machine does), and to the end.

`python scripts/readme_times.py [--only WORD]` runs them in a temporary folder, on 350 drawn faces where the README names a data set,
and prints a Markdown table. Servers are timed until they say that they are ready, and ended by Ctrl-C. The program is
the `fer-ignite` on the path.
"""

import argparse
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FACES = "--data demo:350 --epochs 1"
# (command, what a server prints when it is ready)
COMMANDS = (
    (f"fer-ignite train {FACES} --name a", None),
    (f"fer-ignite train {FACES} --name b --nproc 2", None),
    ("fer-ignite train --data demo:350 --epochs 2 --name b --resume auto", None),
    (f"torchrun --nproc-per-node 2 -m fer_ignite train {FACES} --name t", None),
    (f"fer-ignite train {FACES} --name h --handlers ./my_run.py:watch", None),
    (f"fer-ignite train {FACES} --name d --teacher runs/a/checkpoints/best.pt", None),
    (f"fer-ignite train {FACES} --name f --folds 2", None),
    ("python my_run.py", None),
    ("fer-ignite train --help", None),
    ("fer-ignite train --help-all", None),
    ("fer-ignite train --print-config", None),
    ("fer-ignite train --print-schema", None),
    ("fer-ignite evaluate runs/a", None),
    ("fer-ignite evaluate runs/a,runs/b", None),
    ("fer-ignite evaluate runs/a --robustness", None),
    ("fer-ignite compare runs/a runs/b", None),
    ("fer-ignite average runs/a runs/b --out soup.pt", None),
    ("fer-ignite predict faces/*.png --format csv", None),
    ("fer-ignite predict photo.png", None),
    ("fer-ignite demo --no-browser --port 0", "page is at"),
    ("fer-ignite serve --port 0", "http://"),
    ("fer-ignite report runs/a", None),
    ("fer-ignite audit demo:350", None),
    ("fer-ignite export runs/a/checkpoints/best.pt", None),
    ("fer-ignite predict runs/a/checkpoints/best.onnx faces", None),
    ("fer-ignite find-lr --data demo:350 --iterations 50", None),
    ("fer-ignite tune space.yaml --data demo:350 --epochs 1 --trials 2", None),
    ("fer-ignite completion bash", None),
    ("fer-ignite info", None),
)


@dataclass
class Times:
    """Seconds to the first printed character, of the processor for that, and to the end (of a server: until it is ready)."""

    first_s: float
    computing_s: float
    end_s: float
    exit_code: int
    shown: str


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(command: str, *, ready: str | None, folder: Path) -> Times:
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm-256color"}
    began = time.monotonic()
    program = subprocess.Popen(
        f"exec {command}",
        shell=True,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
        env=environment,
    )
    os.close(follower)
    first, computing, ended, shown = 0.0, 0.0, 0.0, ""
    while True:
        try:
            text = os.read(leader, 65536).decode(errors="replace")
        except OSError:  # the last writer has closed the terminal
            break
        shown += text
        visible = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).strip()
        if not first and visible:
            first, computing = time.monotonic() - began, processor_s(program.pid)
        if ready is not None and ready in shown and not ended:
            ended = time.monotonic() - began
            os.killpg(program.pid, signal.SIGINT)
    code = program.wait()
    total = time.monotonic() - began
    os.close(leader)
    return Times(first or total, computing, ended or total, code, shown)


def prepare(folder: Path) -> None:
    """What the commands name: the README's own script, a search space, drawn faces."""
    from PIL import Image

    from fer_ignite.data.drawn_faces import draw_faces

    readme = (ROOT / "README.md").read_text()
    script = re.search(r"```python\n(# my_run\.py\n.*?)```", readme, re.S)
    assert script is not None
    (folder / "my_run.py").write_text(script[1])
    (folder / "space.yaml").write_text("lr: {log: [0.001, 0.01]}\n")
    (folder / "faces").mkdir()
    pixels_NHWC, _ = draw_faces(7, seed=5, size=48)
    for place, face_HWC in enumerate(pixels_NHWC):
        Image.fromarray(face_HWC.squeeze()).save(folder / "faces" / f"{place}.png")
    large_NHWC, _ = draw_faces(1, seed=9, size=220, start=3)
    photo = Image.new("RGB", (640, 380), (205, 211, 216))
    photo.paste(Image.fromarray(large_NHWC[0].squeeze()).convert("RGB"), (200, 80))
    photo.save(folder / "photo.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only commands with this word in them")
    only = parser.parse_args().only
    print("| command | first sign, s | of it computing, s | end, s |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for command, ready in COMMANDS:
            if only not in command:
                continue
            found = timed(command, ready=ready, folder=folder)
            end = f"{found.end_s:.1f}{' (ready)' if ready else ''}"
            print(
                f"| `{command}` | {found.first_s:.2f} | {found.computing_s:.2f} | {end} |",
                flush=True,
            )
            if found.exit_code not in (0, 130):
                print(
                    f"{command}: exit code {found.exit_code}: {found.shown[-1500:]}",
                    file=sys.stderr,
                )


if __name__ == "__main__":
    main()
