"""Detection of the kind of a source from its files."""

import sys
from typing import get_args

import pytest
from PIL import Image

from fer_ignite.config.data import DataSettings
from fer_ignite.data.cache.spec import LAYOUTS
from fer_ignite.data.readers.csv_files import FerCsvSource, ManifestSource
from fer_ignite.data.readers.find import DEMO_COUNT, DemoSource, ReadOptions, find_source
from fer_ignite.data.readers.folders import FolderSource
from fer_ignite.errors import ConfigError, DataError


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_a_csv_is_known_by_its_columns(tmp_path):
    assert isinstance(
        find_source(write(tmp_path / "a.csv", "emotion,pixels,Usage\n")), FerCsvSource
    )
    assert isinstance(
        find_source(write(tmp_path / "b.csv", "emotion, Usage, pixels\n")), FerCsvSource
    )
    assert isinstance(
        find_source(write(tmp_path / "c.csv", "\ufeffPath,Label,split\n")), ManifestSource
    )


def test_a_folder_is_classes_unless_it_holds_a_known_csv(tmp_path):
    (tmp_path / "happy").mkdir()
    assert isinstance(find_source(str(tmp_path)), FolderSource)
    write(tmp_path / "deep" / "fer2013" / "fer2013.csv", "emotion,pixels,Usage\n")
    assert isinstance(find_source(str(tmp_path / "deep")), FerCsvSource)


def test_demo_is_drawn_in_any_number():
    assert find_source("demo").where == f"demo:{DEMO_COUNT}"
    demo = find_source("demo:70")
    assert isinstance(demo, DemoSource)
    samples = demo.samples()
    assert len(samples) == 70 and len(samples.classes) == 7 and samples.pixels_NHWC is not None
    assert demo.stamp() == find_source("demo:70").stamp() != find_source("demo:71").stamp()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nowhere", "no such file or folder"),
        ("a\0b", "no such file or folder"),
        ("demo:3", "too few"),
        ("demo:x", "no such file"),
        ("kaggle:name", "no such file"),
    ],
)
def test_what_does_not_exist_is_refused(text, words):
    with pytest.raises(DataError, match=words):
        find_source(text)


def test_files_of_other_kinds_are_refused_with_what_is_read(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"no text; a csv, or a csv compressed by gzip, is read"):
        find_source(str(tmp_path / "a.png"))
    with pytest.raises(DataError, match=r"emotion,pixels,Usage .* or path,label"):
        find_source(write(tmp_path / "b.csv", "x,y\n"))
    with pytest.raises(DataError, match="--votes"):
        find_source(write(tmp_path / "c.csv", "Usage,Image name,neutral\n"))
    with pytest.raises(DataError, match="empty"):
        find_source(write(tmp_path / "d.csv", ""))


@pytest.mark.parametrize(
    ("header", "kind"),
    [("emotion,pixels,Usage", "fer2013"), ("subDirectory_filePath,expression", "affectnet")],
)
def test_a_csv_of_another_data_set_than_the_layout_names_is_refused(tmp_path, header, kind):
    path = write(tmp_path / "a.csv", header + "\n")
    other = {"fer2013": "affectnet", "affectnet": "fer2013"}[kind]
    with pytest.raises(DataError, match=f"--layout {other}: .* has the columns of {kind}"):
        find_source(path, ReadOptions(layout=other))
    assert find_source(path, ReadOptions(layout=kind)).kind == find_source(path).kind


def test_the_setting_takes_the_layouts_that_are_read():
    assert get_args(DataSettings.model_fields["layout"].annotation) == LAYOUTS


def test_votes_go_with_the_csv_alone(tmp_path):
    with pytest.raises(DataError, match="--votes goes with"):
        find_source("demo", ReadOptions(votes=write(tmp_path / "v.csv", "x")))


def test_kaggle_without_its_library_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)  # Python's own way to say: not installed
    with pytest.raises(ConfigError, match=r'-m pip install "\S+\[kaggle\]"'):
        find_source("kaggle:msambare/fer2013")
