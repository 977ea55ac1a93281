"""A folder with all the files that the pages speak of, and what runs a page's blocks in it."""

import csv
import os
import shlex
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest

from fer_ignite.distributed import resolve

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "docs_parts"))

from blocks import as_tested, command_lines, reason_not_to_run  # noqa: E402

_FOR_THE_SHELL = set("|&;<>$`")


def run_in_process(command):
    """Exit code of `fer-ignite ...`, without paying for torch's import again."""
    from fer_ignite.cli.main import main

    try:
        main(shlex.split(command, comments=True)[1:])
    except SystemExit as ended:
        return ended.code
    return 0


def run_in_shell(command, folder):
    """Exit code and last words of any other command."""
    path = f"{folder / '.bin'}:{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
    }
    said = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return said.returncode, said.stdout[-2000:] + said.stderr[-2000:]


class Page:
    """The blocks of one page, run one after the other: one folder, one namespace."""

    def __init__(self, folder):
        self.folder = folder
        self.commands = ""  # of the whole page: what they name is tried by them
        self.names = {"__name__": "a_page"}

    def run(self, block):
        """Runs a block as its language demands; an assertion tells what went wrong."""
        getattr(self, f"_{block.language}")(block.text)

    def _bash(self, text):
        for line in command_lines(text):
            if reason_not_to_run(line) is None:
                self._command(
                    as_tested(line, spare=True).replace("scripts/fer-ignite", "fer-ignite")
                )

    def _command(self, command):
        if command.startswith("fer-ignite ") and not _FOR_THE_SHELL & set(command):
            code, said = run_in_process(command), ""
        else:
            code, said = run_in_shell(command, self.folder)
        assert code == 0, f"{command}\nended with {code}\n{said}"

    def _python(self, text):
        name = self._keep(text, ".py")
        if name and "__main__" in text:  # it starts processes, which import the file again
            code, said = run_in_shell(f"python {name}", self.folder)
            assert code == 0, said
        else:
            exec(compile(text, name or "a block", "exec"), self.names)

    def _yaml(self, text):
        from fer_ignite.config import check, read_yaml

        name = self._keep(text, ".yaml")
        if name and name in self.commands:
            return
        (self.folder / "settings.yaml").write_text(text, encoding="utf-8")
        check(read_yaml(self.folder / "settings.yaml"))

    def _keep(self, text, suffix):
        """Writes a block whose first line is `# name.suffix` to that file."""
        first = text.split("\n")[0].removeprefix("#").strip()
        if not (text.startswith("#") and first.endswith(suffix) and " " not in first):
            return None
        (self.folder / first).write_text(text, encoding="utf-8")
        return first


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    """fer2013.csv, its votes, class folders, loose faces and a finished run, all of them of drawn faces."""
    folder = tmp_path_factory.mktemp("workshop")
    _write_programs(folder / ".bin")
    _write_faces(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert (
            run_in_process(as_tested("fer-ignite train --data fer2013.csv --quiet", spare=True))
            == 0
        )
    (folder / "best.pt").write_bytes(
        (folder / "runs/fer48-fer2013/checkpoints/best.pt").read_bytes()
    )
    return folder


@pytest.fixture
def page(workshop, tmp_path, monkeypatch):
    """A Page in a copy of the workshop, which is also the working folder."""
    import torch

    folder = Path(copytree(workshop, tmp_path / "page"))
    monkeypatch.chdir(folder)
    # Other tests run beside: commands in this process take one thread, whatever the machine has.
    monkeypatch.setattr(resolve, "threads_per_process", lambda threads, **machine: threads or 1)
    yield Page(folder)
    torch.set_num_threads(1)


def _write_programs(folder):
    folder.mkdir()
    for name, module in {
        "python": "",
        "fer-ignite": "-m fer_ignite",
        "torchrun": "-m torch.distributed.run",
    }.items():
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n', encoding="utf-8")
        program.chmod(0o755)


def _write_faces(folder):
    from fer_ignite.data.drawn_faces import DEMO_CLASSES, draw_faces

    faces_NHWC, labels_N = draw_faces(490, seed=5)
    names = [DEMO_CLASSES[label] for label in labels_N]
    _write_tables(folder, faces_NHWC, names)
    _write_images(folder, faces_NHWC, names)


def _write_tables(folder, faces_NHWC, names):
    from fer_ignite.data.expressions import FER2013_CODES, FERPLUS_COLUMNS, find_expression

    usages = ["Training"] * 350 + ["PublicTest"] * 70 + ["PrivateTest"] * 70
    with (folder / "fer2013.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["emotion", "pixels", "Usage"])
        for face_HWC, name, usage in zip(faces_NHWC, names, usages, strict=True):
            writer.writerow(
                [FER2013_CODES.index(name), " ".join(map(str, face_HWC.ravel())), usage]
            )
    columns = [find_expression(column) or column for column in FERPLUS_COLUMNS]
    with (folder / "fer2013new.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Usage", "Image name", *FERPLUS_COLUMNS])
        for number, (name, usage) in enumerate(zip(names, usages, strict=True)):
            writer.writerow(
                [
                    usage,
                    f"fer{number:07}.png",
                    *(7 * (c == name) + 3 * (c == "neutral") for c in columns),
                ]
            )


def _write_images(folder, faces_NHWC, names):
    from PIL import Image

    rows = [["path", "label", "split"]]
    for split, start, count in (("train", 0, 140), ("val", 350, 28), ("test", 420, 28)):
        for number in range(start, start + count):
            file = folder / "my_faces" / split / names[number] / f"{number:04}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(faces_NHWC[number, ..., 0]).save(file)
            rows.append([file.relative_to(folder).as_posix(), names[number], split])
    with (folder / "faces.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (folder / "faces").mkdir()
    for number in range(7):
        Image.fromarray(faces_NHWC[number, ..., 0]).save(folder / "faces" / f"{number}.jpg")
    Image.fromarray(faces_NHWC[3, ..., 0]).save(folder / "photo.jpg")
    Image.fromarray(faces_NHWC[3, ..., 0]).save(folder / "face.jpg")
