"""Whole pages: what they hold, that they fetch nothing, that nothing of the user's becomes markup, what they leave in the test-access log."""

import copy
import itertools
import json
import re
import shutil
import sys
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from fer_ignite import evaluate, train
from fer_ignite.apps.report.comparison import compare_pair, distinct_names
from fer_ignite.apps.report.context import build_context
from fer_ignite.apps.report.evaluation import ReportOptions, evaluate_for_report
from fer_ignite.apps.report.explanations import prepared
from fer_ignite.apps.report.page import write_report
from fer_ignite.apps.report.render import render_page
from fer_ignite.apps.report.sentences import outcome_sentences
from fer_ignite.apps.report.settings import differing_settings, setting_rows
from fer_ignite.apps.report.subject import resolve_run
from fer_ignite.checkpoint.format import load_checkpoint, write_checkpoint
from fer_ignite.data.drawn_faces import draw_faces
from fer_ignite.errors import CheckpointError, ConfigError, FerError

HOSTILE = "\"'></script><img src=x onerror=alert(1)><script>alert(1)</script>{{ 7*7 }}&amp;"


class Page(HTMLParser):
    """Tags with their attributes, and the text of each kind."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="session")
def facts(finished_run):
    return build_context(resolve_run(finished_run), ReportOptions())


@pytest.fixture(scope="session")
def page(facts):
    return render_page("run.html", facts)


def test_the_page_shows_the_run_s_figures(finished_run, facts, page):
    summary = json.loads((finished_run / "summary.json").read_text())
    read = Page(page)
    assert read.open == []
    assert f"{100 * summary['val']['accuracy']:.1f} %" in read.text
    # other tests look at this run too
    looks = len((finished_run / "test_access.jsonl").read_text().splitlines())
    scored = f"the run scored {100 * summary['test']['accuracy']:.1f} % on 70 test faces"
    assert f"{scored}; test has been scored {looks} time" in read.text
    assert facts["result"]["accuracy"] == pytest.approx(summary["val"]["accuracy"], abs=1e-7)
    matrix = facts["result"]["confusion_matrix"]
    assert {key: len(faces) for key, faces in facts["cells"].items()} == {
        f"{i}-{j}": min(count, 30)
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if count
    }
    for heading in (
        "Curves",
        "Confusion matrix",
        "Per-class metrics",
        "Precision-recall and ROC curves",
        "Calibration",
        "Most confident errors",
        "Saliency (Grad-CAM)",
        "Data",
        "Settings",
        "Environment",
    ):
        assert heading in read.text
    assert len(page.encode()) < 2_000_000


def test_the_page_fetches_nothing_and_its_policy_lets_it_fetch_nothing(page):
    read = Page(page)
    policy = next(
        meta["content"]
        for meta in read.all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in read.all("img"))
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in read.tags}
    assert all(link["href"].startswith("#") for link in read.all("a"))
    assert not any(
        name.startswith("on") or name == "style"
        for _, attributes in read.tags
        for name in attributes
    )
    outside = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", page)
    assert "http://" not in outside and "https://" not in outside


def test_the_page_can_be_read_without_seeing_it(page):
    read = Page(page)
    assert all(image.get("alt") for image in read.all("img"))
    assert all(head.get("scope") in ("row", "col") for head in read.all("th"))
    names = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(names) == len(set(names))
    pointers = ("aria-labelledby", "aria-describedby", "aria-controls")
    referred = " ".join(
        attributes.get(pointer, "") for _, attributes in read.tags for pointer in pointers
    )
    assert set(referred.split()) <= set(names)
    assert {link["href"][1:] for link in read.all("a")} <= set(names)
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert (
        levels[0] == 1
        and levels.count(1) == 1
        and all(after - before <= 1 for before, after in itertools.pairwise(levels))
    )
    assert all(
        button.get("aria-label") and button.get("type") == "button" for button in read.all("button")
    )
    assert ("html", {"lang": "en"}) in read.tags


def hostile(value, depth=0):
    """The same facts with every name replaced; numbers, markup of our own making and pictures stay."""
    if isinstance(value, dict):
        return {key: hostile(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [hostile(part) for part in value]
    own = isinstance(value, str) and (
        hasattr(value, "__html__") or value.startswith("data:image") or value in ("val", "test")
    )
    return HOSTILE if isinstance(value, str) and not own else value


def test_whatever_names_hold_nothing_of_it_becomes_markup(facts, page):
    spoilt = hostile(copy.deepcopy(facts))
    text = render_page("run.html", spoilt)
    read, clean = Page(text), Page(page)
    assert text.count(HOSTILE) == 0 and "onerror" not in {
        name for _, attributes in read.tags for name in attributes
    }
    assert len(read.all("script")) == len(clean.all("script")) and len(read.all("img")) == len(
        clean.all("img")
    )
    assert "{{ 7*7 }}" in read.text and HOSTILE in read.text
    stored = json.loads(re.search(r'id="cell-data">(.*?)</script>', text, re.DOTALL)[1])
    assert stored["classes"][0] == HOSTILE


def test_a_hostile_class_name_goes_through_a_whole_report(tiny, tmp_path):
    """From a manifest of images, as strangers' data would bring it, into charts, tables, alternative texts and the script's data."""
    rows = ["path,label,split"]
    for place, face in enumerate(draw_faces(24, seed=2)[0]):
        Image.fromarray(face.squeeze()).save(tmp_path / f"<b>{place}.png")
        quoted = HOSTILE.replace('"', '""')
        label, role = (f'"{quoted}"', "plain")[place % 2], ("train", "val", "test")[place // 8]
        rows.append(f"<b>{place}.png,{label},{role}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    train(tiny(data=str(tmp_path / "list.csv"), epochs=1, batch_size=8))
    write_report([tmp_path / "run"])
    text = (tmp_path / "run" / "report.html").read_text()
    read = Page(text)
    assert HOSTILE in read.text and "<b>" in read.text and text.count(HOSTILE) == 0
    assert len(read.all("script")) == 2 and not read.all("b")
    assert all(image["src"].startswith("data:") for image in read.all("img"))


@pytest.mark.slow
def test_val_is_read_unless_test_is_requested_which_leaves_its_line(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    accesses = run / "test_access.jsonl"
    before = accesses.read_text()
    looks = len(before.splitlines())
    written = write_report([run])
    assert written["file"] == str(run / "report.html") and accesses.read_text() == before
    written = write_report([run], split="test", out=tmp_path / "test.html")
    lines = [json.loads(line) for line in accesses.read_text().splitlines()]
    assert len(lines) == looks + 1 and (lines[-1]["by"], lines[-1]["split"], lines[-1]["n"]) == (
        "evaluate",
        "test",
        70,
    )
    assert (
        f"This is evaluation number {looks + 1} of test with this run's networks."
        in written["sentences"]
    )


@pytest.mark.slow
def test_a_checkpoint_that_was_copied_away_has_a_page_without_curves(
    finished_run, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(finished_run / "checkpoints" / "best.pt", tmp_path / "mine.pt")
    written = write_report(["mine.pt"])
    assert written["file"] == "mine.report.html"
    text = (tmp_path / "mine.report.html").read_text()
    assert 'id="curves"' not in text and "no summary" in text and "Test evaluations" not in text


def test_a_user_s_data_set_and_network_without_maps_have_a_page_too(tiny, tmp_path):
    """Nothing is packed, so copies aren't known; the network has no map, and the page says so; code is given again by name."""
    (tmp_path / "own.py").write_text(
        "from PIL import Image\nfrom torch import nn\n"
        "class Squares:\n    classes = ('dark', 'light')\n    targets = [0, 1] * 8\n"
        "    def __init__(self, split): ...\n    def __len__(self): return 16\n"
        "    def __getitem__(self, i): return Image.new('L', (24, 24), 40 + 160 * (i % 2) + i), i % 2\n"
        "class Net(nn.Sequential):\n    def __init__(self, num_classes, in_channels):\n"
        "        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, num_classes))\n"
    )
    data, model = (f"{tmp_path / 'own.py'}:{name}" for name in ("Squares", "Net"))
    train(tiny(data=data, model=model, model_args={}, epochs=1, batch_size=8))
    with pytest.raises(FerError, match="--data"):
        write_report([tmp_path / "run"])
    write_report([tmp_path / "run"], data=data, model=model)
    text = Page((tmp_path / "run" / "report.html").read_text()).text
    assert (
        "copies and blank images are not known" in text
        and "no layer of Net gives a map" in text
        and "16 validation faces" in text
    )


def test_grad_cam_gets_its_faces_from_the_run_s_own_collate_function(
    finished_run, tmp_path, caplog, seen
):
    """The function turns faces into negatives; without it Grad-CAM explained other pictures than were scored."""
    (tmp_path / "own.py").write_text(
        "import numpy as np, torch\n"
        "def negatives(samples):\n"
        "    faces = [255 - np.asarray(face)[..., None] for face in samples]\n"
        "    return torch.from_numpy(np.stack(faces))\n"
    )
    name = f"{tmp_path / 'own.py'}:negatives"
    content = load_checkpoint(finished_run / "checkpoints" / "best.pt")
    with (tmp_path / "own.pt").open("wb") as file:
        write_checkpoint({**content, "config": {**content["config"], "collate_fn": name}}, file)
    options = ReportOptions(collate_fn=name)
    data = evaluate_for_report(resolve_run(tmp_path / "own.pt"), options)
    (ours,), (plain,) = prepared(data, [0, 1]), prepared(seen, [0, 1])
    mean, std = (getattr(data.network.preprocessing, part)[0] for part in ("mean", "std"))
    assert torch.allclose(ours * std + mean, 1 - (plain * std + mean), atol=1e-5)
    assert "has no part in this" not in caplog.text


def test_a_report_about_all_splits_is_refused(finished_run):
    with pytest.raises(ConfigError, match="choose val, test or train"):
        write_report(finished_run, split="all")


@pytest.mark.parametrize("make", ["absent", "empty", "unsaved"])
def test_what_is_no_run_is_refused(make, tmp_path):
    path = tmp_path / "x"
    if make != "absent":
        path.mkdir()
    if make == "unsaved":
        (path / "config.yaml").write_text("{}")
    with pytest.raises(
        CheckpointError,
        match=r"without a checkpoint" if make == "unsaved" else r"neither a checkpoint nor a run",
    ):
        resolve_run(path)


def test_without_jinja2_one_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ConfigError, match=r'-m pip install "\S+\[report\]"'):
        write_report(["whatever"])


@pytest.mark.slow
def test_runs_are_compared_as_compare_does(finished_run, tmp_path):
    other = shutil.copytree(finished_run, tmp_path / "other")
    content = load_checkpoint(other / "checkpoints" / "best.pt")
    for tensor in content["model"].values():  # another network: the same one with noise
        if tensor.is_floating_point() and tensor.ndim > 1:
            tensor += (
                0.3
                * tensor.std()
                * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
            )
    content["config"] = {**content["config"], "lr": 0.77}
    with (other / "checkpoints" / "best.pt").open("wb") as file:
        write_checkpoint(content, file)
    from fer_ignite.inference.comparison import compare

    written = write_report([finished_run, other], out=tmp_path / "both.html")
    read = Page((tmp_path / "both.html").read_text())
    expected = compare(
        finished_run / "checkpoints" / "best.pt", other / "checkpoints" / "best.pt", quiet=True
    )
    shown = abs(expected["difference"])
    assert f"{100 * shown:+.2f}" in read.text and f"{expected['p']:.4f}" in read.text
    assert "0.77" in read.text and "lr" in read.text and len(read.all("svg")) > 4
    assert read.open == [] and written["sentences"][0].endswith(" %.")


def test_runs_on_other_faces_are_not_paired():
    runs = [
        {"name": name, "hits_N": None, "result": {"fingerprint": name, "accuracy": 0.5}}
        for name in "ab"
    ]
    assert compare_pair(*runs) == {"a": "a", "b": "b", "paired": False}


def test_runs_of_one_name_are_distinguished(finished_run):
    subject, last = (
        resolve_run(finished_run),
        resolve_run(finished_run / "checkpoints" / "last.pt"),
    )
    assert distinct_names([subject, last]) == ["run best", "run last"]
    assert distinct_names([subject, subject]) == ["run best (1)", "run best (2)"]


def test_settings_tell_what_was_changed(facts):
    rows = {row["name"]: row for row in facts["settings"]}
    assert rows["epochs"]["changed"] and rows["epochs"]["value"] == "8" and rows["epochs"]["help"]
    assert not rows["momentum"]["changed"]
    (odd,) = [row for row in setting_rows({"lr": 0.1, HOSTILE: 1}) if row["group"] == "unknown"]
    assert odd["name"] == HOSTILE and odd["changed"]
    (differing,) = differing_settings([{"lr": 0.1, "out": "a"}, {"lr": 0.2, "out": "b"}])
    assert (differing["name"], differing["values_of"]) == ("lr", ["0.1", "0.2"])


def test_an_ensemble_has_a_page_and_takes_part_in_a_comparison(finished_run, tmp_path):
    copies = [tmp_path / name for name in ("one", "two")]
    for copy_ in copies:
        shutil.copytree(finished_run, copy_)
    name = f"{copies[0]}=3,{copies[1] / 'checkpoints' / 'last.pt'}=1"
    facts = build_context(resolve_run(name), ReportOptions())
    assert facts["title"] == "ensemble of one, two" and facts["subject"]["run"] is None
    assert facts["attention"]["reason"].startswith("Grad-CAM explains one network")
    ensemble = evaluate(resolve_run(name).source, quiet=True)
    assert facts["result"]["accuracy"] == ensemble["accuracy"]
    assert dict(facts["network"])["network"] == "ensemble of fer48, fer48"
    written = write_report([name, copies[0]], out=tmp_path / "both.html")
    assert "ensemble of one, two" in (tmp_path / "both.html").read_text()
    assert written["file"] == str(tmp_path / "both.html")


def test_a_member_that_is_missing_is_refused_by_its_name(finished_run, tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pt"):
        write_report(f"{finished_run},{tmp_path / 'nowhere.pt'}")


def test_a_warning_about_the_split_stands_among_the_sentences(facts):
    result = {**facts["result"], "warning": "it has seen val."}
    sentences = outcome_sentences(result, {}, network="A network", test_evaluations=0)
    assert sentences[1] == "Warning: it has seen val."
