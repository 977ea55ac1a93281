"""Speed, measured side by side in one run: prints a table, writes a JSON. Ratios are what counts; machines are noisy."""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import growth  # noqa: E402
import packing as packing_files  # noqa: E402
import torch  # noqa: E402
from pacing import Contender, interleave, spread  # noqa: E402

LIGHTNING = os.environ.get("BENCH_LIGHTNING_PYTHON", sys.executable)
Row = tuple[str, str, str, str]  # what, measured, target, holds
Settings = dict[str, Any]


class Bench:
    """The faces, how often to measure, and what was found."""

    def __init__(self, data: str, folder: Path, rounds: int, steps: int) -> None:
        self.data, self.folder, self.rounds, self.steps = data, folder, rounds, steps
        self.threads = len(os.sched_getaffinity(0))
        self.lightning = lightning_version()
        self.found: dict[str, Any] = {}
        self.rows: list[Row] = []

    def settings(self, model: str, image_px: int, batch_size: int) -> Settings:
        return {
            "model": model,
            "image_px": image_px,
            "batch_size": batch_size,
            "images": str(self.folder / "images"),
            "data": self.data,
            "threads": self.threads,
            "workers": self.threads,
        }

    def race(
        self, contenders: Mapping[str, tuple[str, Settings]], *, warm: int, count: int, images: int
    ) -> dict[str, dict[str, Any]]:
        """Images per second of each contender, round by round in turn."""
        started: dict[str, Contender] = {}
        try:
            for name, (kind, settings) in contenders.items():
                if kind.startswith("lightning") and not self.lightning:
                    continue
                python = LIGHTNING if kind.startswith("lightning") else sys.executable
                started[name] = Contender(kind, settings, python=python)
            rounds = interleave(started, rounds=self.rounds, warm=warm, count=count)
        finally:
            for contender in started.values():
                contender.close()
        return {
            name: {
                "images_per_s": spread([count * images / said["seconds"] for said in results]),
                "rounds": [round(said["seconds"], 4) for said in results],
                **(
                    {"data_share": spread([r["data_s"] / r["seconds"] for r in results])}
                    if "data_s" in results[0]
                    else {}
                ),
                "start_s": round(started[name].start_s, 2),
            }
            for name, results in rounds.items()
        }

    def row(
        self,
        what: str,
        values: Mapping[str, float],
        target: float,
        *,
        least: bool = True,
        unit: str = "x",
    ) -> None:
        middle = values["median"]
        holds = middle >= target if least else middle <= target
        scale = 100 if unit == "%" else 1
        shown = [f"{values[name] * scale:.3g}" for name in ("median", "min", "max")]
        limit = f"{'at least' if least else 'at most'} {target * scale:g}{unit if unit == 'x' else ' ' + unit}"
        self.rows.append(
            (
                what,
                f"{shown[0]} {unit} ({shown[1]} to {shown[2]})",
                limit,
                "yes" if holds else "**no**",
            )
        )


def ratio(results: Mapping[str, Any], first: str, second: str) -> dict[str, float]:
    """How many times faster the first is; of each round's pair, so that a slow minute hits both."""
    return pairs(results[second]["rounds"], results[first]["rounds"])


def images_per_s(values: Mapping[str, Any]) -> str:
    found = values["images_per_s"]
    return f"{found['median']:.0f} ({found['min']:.0f} to {found['max']:.0f})"


def training(
    bench: Bench,
    model: str,
    image_px: int,
    batch_size: int,
    count: int,
    targets: tuple[float, float, float],
) -> None:
    """End to end, against the bare step, the tutorial's loop and Lightning."""
    settings = bench.settings(model, image_px, batch_size)
    results = bench.race(
        {
            "bare step": ("resident", settings),
            "fer_ignite": ("ours", settings),
            "tutorial": ("tutorial", settings),
            "Lightning": ("lightning", settings),
            "Lightning bf16": ("lightning", {**settings, "precision": "bf16-mixed"}),
        },
        warm=3,
        count=count,
        images=batch_size,
    )
    name = f"{model} {image_px} px"
    ours = results["fer_ignite"]
    for other in results:
        if other != "fer_ignite":
            ours[f"x {other}"] = ratio(results, "fer_ignite", other)
    bench.found[f"train {name}"] = results
    share, of_step, faster = targets
    bench.row(f"{name}: data's share of a step", ours["data_share"], share, least=False, unit="%")
    bench.row(f"{name}: end to end, of the bare step's speed", ours["x bare step"], of_step)
    bench.row(f"{name}: training, of the tutorial's loop", ours["x tutorial"], faster)
    if bench.lightning:
        bench.row(
            f"{name}: training, of Lightning (fp32, its default)", ours["x Lightning"], faster
        )


def train48(bench: Bench) -> None:
    training(bench, "fer48", 48, 128, bench.steps, (0.03, 0.95, 3.5))


def train224(bench: Bench) -> None:
    training(bench, "emotionnet", 224, 64, 6, (0.05, 0.95, 2.4))


def step(bench: Bench) -> None:
    """What each means brings to the bare step of the default network."""
    settings = bench.settings("fer48", 48, 128)
    results = bench.race(
        {
            "as trained": ("resident", settings),
            "freed memory given back": ("resident_giving_back", settings),
            "fp32": ("resident_fp32", settings),
            "not channels_last": ("resident_contiguous", settings),
            "torch.compile": ("resident_compiled", settings),
        },
        warm=3,
        count=30,
        images=128,
    )
    for name, values in results.items():
        values["of as trained"] = ratio(results, name, "as trained")
    bench.found["step"] = results


def processes(bench: Bench) -> None:
    """Two processes of one thread, against one of two threads."""
    settings = bench.settings("fer48", 48, 128)
    two = {**settings, "nproc": bench.threads, "threads": 1}
    results = bench.race(
        {"one": ("ours", settings), "several": ("ours", two)}, warm=3, count=40, images=128
    )
    found = ratio(results, "several", "one")
    bench.found["processes"] = {**results, "several x one": found}
    bench.row(f"{bench.threads} processes of one thread, of one with {bench.threads}", found, 0.9)


def evaluating(bench: Bench) -> None:
    settings = bench.settings("fer48", 48, 128)
    faces = len(list((bench.folder / "images" / "val").rglob("*.png")))
    results = bench.race(
        {
            "fer_ignite": ("ours_evaluating", settings),
            "tutorial": ("tutorial_evaluating", settings),
            "Lightning": ("lightning_evaluating", settings),
        },
        warm=0,
        count=1,
        images=faces,
    )
    for other in [name for name in results if name != "fer_ignite"]:
        results["fer_ignite"][f"x {other}"] = ratio(results, "fer_ignite", other)
        bench.row(f"evaluation, of {other}'s", results["fer_ignite"][f"x {other}"], 3)
    bench.found["evaluate"] = results


def in_turn(rounds: int, works: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each work, in turn, after one round that is thrown away."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def pairs(slow: list[float], fast: list[float]) -> dict[str, float]:
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def packing(bench: Bench) -> None:
    """Class folders into a pack, against decoders alone on as many cores."""
    images, many, photographs = (bench.folder / name for name in ("images", "many", "photographs"))
    packing_files.write_copies(images, many, times=5)
    packing_files.write_photographs(images, photographs, most=3000)
    for what, folder, kinds in (
        ("small PNGs", images, ("pack", "Pillow")),
        ("small PNGs", many, ("pack", "Pillow")),
        ("224 px JPEGs", photographs, ("pack", "Pillow", "torchvision")),
    ):
        raced = packing_files.race(folder, kinds, rounds=bench.rounds)
        count = sum(path.is_file() for path in folder.rglob("*.*"))
        found: dict[str, Any] = {
            kind: {
                "images_per_s": spread([count / s for s in took["clock"]]),
                "cpu_us_per_image": spread([1e6 * s / count for s in took["cpu"]]),
                "rounds": took,
            }
            for kind, took in raced.items()
        }
        for other in kinds[1:]:
            ratios = {unit: pairs(raced[other][unit], raced["pack"][unit]) for unit in raced[other]}
            found["pack"][f"x {other}"] = ratios["clock"]
            found["pack"][f"x {other} (CPU time)"] = ratios["cpu"]
            label = f"packing {count:,} {what}, of {other}'s decoder alone on all cores"
            bench.row(label, ratios["clock"], 0.8)
            bench.row(f"{label}, by CPU time", ratios["cpu"], 0.8)
        bench.found[f"pack {count:,} {what}"] = found


def predicting(bench: Bench) -> None:
    """Files to answers, against one file at a time through the same network."""
    from contenders import network, transforms_of
    from PIL import Image

    from fer_ignite import Config, train
    from fer_ignite.inference.loaded_model import load_model
    from fer_ignite.inference.predictor import predict

    files = sorted((bench.folder / "images" / "val").rglob("*.png"))[:2000]
    out = bench.folder / "runs"
    folder = train(
        Config(
            data="demo:256", epochs=1, out=str(out), quiet=True, threads=bench.threads, plots=False
        )
    )["folder"]
    ours = load_model(Path(folder) / "checkpoints" / "best.pt")
    settings = bench.settings("fer48", 48, 128)
    theirs, change = network(settings).eval(), transforms_of(settings, train=False)

    @torch.no_grad()
    def one_by_one() -> None:
        for file in files:
            theirs(change(Image.open(file)).unsqueeze(0)).softmax(1).argmax(1).item()

    works = {"one by one": one_by_one}
    for views in ("none", "shift10"):
        works[views] = lambda views=views: list(predict(ours, files, faces="never", tta=views))  # type: ignore[misc]
    seconds = in_turn(bench.rounds, works)
    found = pairs(seconds["one by one"], seconds["none"])
    bench.found["predict"] = {
        **{
            name: {"images_per_s": spread([len(files) / s for s in values])}
            for name, values in seconds.items()
        },
        "one view x one by one": found,
        "ten views x one by one": pairs(seconds["one by one"], seconds["shift10"]),
    }
    bench.row("predict, of one file at a time (one view)", found, 3)


def views(bench: Bench) -> None:
    """What averaging over views costs, on one batch of the default network."""
    from contenders import network

    from fer_ignite.training.trainer import tta_logits

    model = network(bench.settings("fer48", 48, 128)).eval().to(memory_format=torch.channels_last)
    images = torch.randn(min(512, 16 * bench.steps), 1, 48, 48).contiguous(
        memory_format=torch.channels_last
    )

    def look(tta: str) -> Callable[[], None]:
        def work() -> None:
            with torch.inference_mode():
                tta_logits(model, images, device=torch.device("cpu"), precision="bf16", tta=tta)

        return work

    seconds = in_turn(
        bench.rounds, {tta: look(tta) for tta in ("none", "flip", "shift10", "shift18")}
    )
    bench.found["views"] = {
        tta: {"cost": pairs(values, seconds["none"])} for tta, values in seconds.items()
    }


def starting(bench: Bench) -> None:
    """From the command to the first answer."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}

    def command(*words: str) -> Callable[[], object]:
        return lambda: subprocess.run(
            [sys.executable, *words], env=environment, capture_output=True, check=True
        )

    seconds = in_turn(
        bench.rounds,
        {
            "python -c pass": command("-c", "pass"),
            "import torch": command("-c", "import torch"),
            "--help": command("-m", "fer_ignite", "--help"),
            "train --help": command("-m", "fer_ignite", "train", "--help"),
        },
    )
    bench.found["start"] = {name: {"seconds": spread(values)} for name, values in seconds.items()}


def growing(bench: Bench) -> None:
    """A million faces: how soon it starts, how much memory grows."""
    found = growth.measure(bench.folder, faces=1_000_000, threads=bench.threads)
    bench.found["growth"] = found
    bench.row(
        "a million faces: from --data PACK to the first step, imports aside",
        spread([found["start_s"]]),
        3,
        least=False,
        unit="s",
    )
    grown = spread([found["grown_mb"]])
    bench.row(
        f"a million faces: private memory gained over {found['steps']} steps",
        grown,
        50,
        least=False,
        unit="MB",
    )


PARTS = {
    "step": step,
    "train48": train48,
    "train224": train224,
    "processes": processes,
    "evaluate": evaluating,
    "pack": packing,
    "predict": predicting,
    "views": views,
    "start": starting,
    "growth": growing,
}


def write_images(data: str, folder: Path, *, train_faces: int) -> None:
    """The same faces as files: what a tutorial's ImageFolder reads."""
    from PIL import Image

    from fer_ignite.data.cache.format import DatasetCache
    from fer_ignite.data.cache.lookup import open_or_build
    from fer_ignite.data.cache.spec import CacheSpec

    dataset_cache = DatasetCache.open(open_or_build(CacheSpec(data=data, channels="gray")))
    for split, limit in (("train", train_faces), ("val", 10**9)):
        for index in dataset_cache.indices(split)[:limit]:
            place = folder / split / dataset_cache.classes[int(dataset_cache.labels[index])]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(dataset_cache.read([index])[0, :, :, 0]).save(place / f"{index}.png")


def about(bench: Bench) -> dict[str, Any]:
    import ignite
    import torchvision

    lines = (
        Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    )
    cpu = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
    versions = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pytorch-ignite": ignite.__version__,
    }
    return {
        "cpu": cpu,
        "cores": bench.threads,
        "python": platform.python_version(),
        **versions,
        "lightning": bench.lightning or "absent",
        "data": Path(bench.data).name,
        "rounds": bench.rounds,
    }


def lightning_version() -> str:
    found = subprocess.run(
        [LIGHTNING, "-c", "import lightning; print(lightning.__version__)"],
        capture_output=True,
        text=True,
    )
    return found.stdout.strip()


def table(bench: Bench, facts: Mapping[str, Any]) -> Iterator[str]:
    yield ", ".join(f"{name} {value}" for name, value in facts.items())
    yield ""
    yield "| | images/s | |"
    yield "|---|---|---|"
    for part, results in bench.found.items():
        for name, values in results.items():
            if isinstance(values, dict) and "images_per_s" in values:
                times = [
                    f"{key} {found['median']:.2f}"
                    for key, found in values.items()
                    if key.startswith(("x ", "of "))
                ]
                yield f"| {part}: {name} | {images_per_s(values)} | {', '.join(times)} |"
    yield ""
    yield "| | measured | target | holds |"
    yield "|---|---|---|---|"
    for row in bench.rows:
        yield "| " + " | ".join(row) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "--data",
        default=os.environ.get("FER2013_CSV", "demo:12000"),
        help="faces (FER2013_CSV, else drawn ones)",
    )
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument(
        "--rounds", type=int, default=5, help="interleaved rounds of each measurement"
    )
    parser.add_argument(
        "--steps", type=int, default=40, help="optimizer steps of a round, at 48 px"
    )
    parser.add_argument(
        "--json", type=Path, default=Path("bench.json"), help="where to write what was found"
    )
    wanted = parser.parse_args()
    unknown = [name for name in wanted.parts.split(",") if name not in PARTS]
    if unknown or wanted.rounds < 1:
        parser.error(
            f"there is no part {unknown[0]!r}; choose from {', '.join(PARTS)}"
            if unknown
            else "--rounds: at least 1"
        )
    with tempfile.TemporaryDirectory(prefix="fer-ignite-bench-") as folder:
        os.environ.setdefault("FER_IGNITE_CACHE", str(Path(folder) / "cache"))
        data = os.path.abspath(wanted.data) if os.path.exists(wanted.data) else wanted.data
        bench = Bench(data, Path(folder), wanted.rounds, wanted.steps)
        write_images(data, bench.folder / "images", train_faces=8000)
        for name in wanted.parts.split(","):
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            PARTS[name](bench)
        facts = about(bench)
        wanted.json.write_text(
            json.dumps({"about": facts, "found": bench.found, "rows": bench.rows}, indent=1) + "\n"
        )
        print("\n".join(table(bench, facts)))


if __name__ == "__main__":
    main()
