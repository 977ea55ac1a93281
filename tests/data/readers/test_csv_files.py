"""fer2013.csv, icml_face_data.csv and manifests: read exactly, or refused with the row's number."""

import gzip
import os
import re
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from fer_ignite.data.readers.csv_files import FerCsvSource, ManifestSource
from fer_ignite.data.readers.find import find_source
from fer_ignite.data.samples import UNDECIDED
from fer_ignite.errors import DataError

PIXELS = np.random.default_rng(1).integers(0, 256, (3, 2304))
TEXTS = [" ".join(map(str, row)) for row in PIXELS]
USAGES = ("Training", "PublicTest", "PrivateTest")


def fer_csv(path, rows, *, header="emotion,pixels,Usage", newline="\n", start=b""):
    path.write_bytes(start + newline.join([header, *rows, ""]).encode())
    return path


def rows():
    return [
        f"{code},{text},{usage}" for code, text, usage in zip((0, 3, 6), TEXTS, USAGES, strict=True)
    ]


def check(samples):
    assert samples.pixels_NHWC is not None
    assert np.array_equal(samples.pixels_NHWC.reshape(3, -1), PIXELS)
    assert [samples.classes[label] for label in samples.labels_N] == ["angry", "happy", "neutral"]
    assert samples.splits_N.tolist() == [0, 1, 2]
    assert samples.ids == [b"row 2", b"row 3", b"row 4"]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_pixels_labels_and_roles_come_through_with_any_line_ends_and_a_bom(
    tmp_path, newline, start
):
    check(
        FerCsvSource(
            fer_csv(tmp_path / "fer2013.csv", rows(), newline=newline, start=start)
        ).samples()
    )


def test_the_other_publication_has_blanks_in_its_column_names_and_another_order(tmp_path):
    other = [f"{row.split(',')[0]},{row.split(',')[2]},{row.split(',')[1]}" for row in rows()]
    check(
        FerCsvSource(
            fer_csv(tmp_path / "icml.csv", other, header="emotion, Usage, pixels")
        ).samples()
    )


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_spreadsheet_s_semicolons_and_tabs_separate_fields(tmp_path, separator, compressed):
    path = fer_csv(
        tmp_path / "fer2013.csv",
        [row.replace(",", separator) for row in rows()],
        header=f"emotion{separator}pixels{separator}Usage",
    )
    if compressed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    check(FerCsvSource(path).samples())


def test_a_semicolon_in_a_field_of_a_csv_with_commas_stays_in_it(tmp_path):
    samples = ManifestSource(manifest(tmp_path, "path,label", "0.png,sad;angry", "1.png,happy"))
    assert samples.samples().classes == ("happy", "sad;angry")


def test_quoted_fields_are_read(tmp_path):
    quoted = [",".join(f'"{field}"' for field in row.split(",")) for row in rows()]
    check(FerCsvSource(fer_csv(tmp_path / "a.csv", quoted)).samples())


def changed(value):
    return " ".join([value, *TEXTS[1].split()[1:]])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (f"3,{TEXTS[1]} 7,PublicTest", "2305 pixels"),
        (f"3,{TEXTS[1].rsplit(' ', 1)[0]},PublicTest", "2303 pixels"),
        (f"3,{changed('256')},PublicTest", "'256'"),
        (f"3,{changed('-1')},PublicTest", "'-1'"),
        (f"3,{changed('NaN')},PublicTest", "'NaN'"),
        (f"3,{changed('1.0')},PublicTest", r"'1\.0'"),
        (f"3,{changed(chr(0))},PublicTest", "row 3"),
        (f"7,{TEXTS[1]},PublicTest", "emotion is '7'"),
        (f",{TEXTS[1]},PublicTest", "emotion is ''"),
        (f"3,{TEXTS[1]},Holdout", "'Holdout'"),
        (f"3,{TEXTS[1]}", "2 fields"),
        (f"3,{TEXTS[1]},PublicTest,", "4 fields"),
        (f"3,{'1' * 10_000_000},PublicTest", "row 3: broken csv"),
        ("3,,PublicTest", "0 pixels"),
    ],
    ids=range(14),  # else the pixels would be the tests' names
)
def test_a_row_that_lies_is_refused_with_its_number(tmp_path, row, words):
    path = fer_csv(tmp_path / "a.csv", [rows()[0], row, rows()[2]])
    samples = FerCsvSource(path).samples()
    assert len(samples) + len(samples.refused) == 3
    (place, reason), *_ = samples.refused
    assert (
        re.search(words, f"{place.decode()}: {reason}")
        and place in (b"row 3", b"row 4")
        and len(reason) < 300
    )


@pytest.mark.parametrize("later", ["", '"'], ids=["never closed", "closed two lines later"])
def test_a_quote_that_is_not_closed_in_its_line_is_an_error(tmp_path, later):
    """The rows up to the next quote would be lost with it, as one that is refused."""
    broken = f'3,"{TEXTS[1]},PublicTest'
    lines = [rows()[0], broken, rows()[2].replace(",", f",{later}", 1), *rows()]
    (tmp_path / "list.csv").write_text('path,label\na,x\nb,"y\nc,x\n')
    for source in (
        FerCsvSource(fer_csv(tmp_path / "a.csv", lines)),
        ManifestSource(tmp_path / "list.csv"),
    ):
        with pytest.raises(
            DataError, match=r"row 3: broken csv .* a quote in line 3 is not closed"
        ):
            source.samples()


@pytest.mark.parametrize(
    "lines",
    [
        ['1.png,"sad', "2.png,happy", '3.png,angry"'],
        ['1.png,"sad\r\n2.png,happy"'],
        ['"1.png,sad', '2.png",happy'],
        ['1.png,sad,"', '2.png,happy"'],
    ],
    ids=["label", "other line ends", "path", "another number of fields"],
)
def test_rows_between_two_stray_quotes_are_not_lost_where_the_csv_stays_valid(tmp_path, lines):
    path = manifest(tmp_path, "path,label", "0.png,sad", *lines, "0.png,happy")
    with pytest.raises(DataError, match=r"row 3: broken csv .* is not closed, or closed .*: mend"):
        ManifestSource(path).samples()


def test_rows_between_two_stray_quotes_of_fer2013_are_not_lost(tmp_path):
    first, second, third = rows()
    lines = [first, second.replace(",Public", ',"Public'), third + '"']
    with pytest.raises(DataError, match=r"row 3: broken csv \(a line break in column Usage\)"):
        FerCsvSource(fer_csv(tmp_path / "a.csv", lines)).samples()


def test_a_column_that_is_not_read_may_hold_line_breaks(tmp_path):
    path = manifest(tmp_path, "path,label,notes", '0.png,sad,"two\nlines"', "1.png,happy,one")
    samples = ManifestSource(path).samples()
    assert samples.classes == ("happy", "sad") and len(samples) == 2 and not samples.refused


@pytest.mark.parametrize(
    ("header", "words"),
    [("emotion,Usage", "no column pixels"), ("pixels,Usage", "no column emotion")],
)
def test_a_missing_column_is_named(tmp_path, header, words):
    with pytest.raises(DataError, match=f"row 1: {words}"):
        FerCsvSource(fer_csv(tmp_path / "a.csv", rows(), header=header)).samples()


def test_a_header_alone_is_refused(tmp_path):
    with pytest.raises(DataError, match="no rows"):
        FerCsvSource(fer_csv(tmp_path / "a.csv", [])).samples()


def test_rows_without_usage_are_undecided(tmp_path):
    path = fer_csv(
        tmp_path / "a.csv", [row.rsplit(",", 1)[0] for row in rows()], header="emotion,pixels"
    )
    assert FerCsvSource(path).samples().splits_N.tolist() == [UNDECIDED] * 3


def manifest(tmp_path, header, *lines):
    for index in range(4):
        Image.new("L", (8, 8), index).save(tmp_path / f"{index}.png")
    path = tmp_path / "list.csv"
    path.write_bytes("\n".join([header, *lines]).encode(errors="surrogateescape"))
    return path


def test_a_manifest_gives_labels_roles_and_groups(tmp_path):
    path = manifest(
        tmp_path,
        "path,label,split,group",
        "0.png,sad,train,a",
        "1.png,happy,valid,b",
        "2.png,sad,TEST,a",
        f"{tmp_path}/3.png,happy,train,b",
    )
    samples = ManifestSource(path).samples()
    assert samples.classes == ("happy", "sad") and samples.labels_N.tolist() == [1, 0, 1, 0]
    assert samples.splits_N.tolist() == [0, 1, 2, 0]
    assert samples.groups_N is not None and samples.groups_N.tolist() == [0, 1, 0, 1]


def test_a_manifest_without_roles_is_undecided_and_rows_listed_twice_count_once(tmp_path):
    samples = ManifestSource(
        manifest(tmp_path, "path,label", "0.png,sad", "1.png,happy", "./0.png,sad")
    ).samples()
    assert samples.splits_N.tolist() == [UNDECIDED] * 2 and samples.left_out == {"reached twice": 1}


def test_one_file_under_two_labels_is_refused(tmp_path):
    with pytest.raises(DataError, match="under two labels"):
        ManifestSource(
            manifest(tmp_path, "path,label", "0.png,sad", "1.png,happy", "0.png,happy")
        ).samples()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("0.png,sad,train", "1.png,happy,"), "row 3: the split is ''"),
        (("0.png,sad,train", "1.png,happy"), "row 3: 2 fields"),
        (("0.png,sad,train", ",happy,train"), "row 3: path is empty"),
        (("0.png,sad,train", "1.png, ,train"), "row 3: label is empty"),
        (("0.png,sad,train", "1.png,sad,train"), "1 classes"),
    ],
)
def test_a_manifest_row_that_says_nothing_is_refused(tmp_path, lines, words):
    source = ManifestSource(manifest(tmp_path, "path,label,split", *lines, "2.png,happy,train"))
    if "classes" in words:
        source = ManifestSource(manifest(tmp_path, "path,label,split", *lines))
        with pytest.raises(DataError, match=words):
            source.samples()
    else:
        samples = source.samples()
        assert (
            next(f"{place.decode()}: {reason}" for place, reason in samples.refused).startswith(
                words
            )
            and len(samples) == 2
        )


def test_a_manifest_without_a_row_that_can_be_used_says_why(tmp_path):
    path = manifest(tmp_path, "path,label,split", "0.png,sad,tain", "1.png,happy,tain")
    with pytest.raises(DataError, match=r"2 can't be: row 2: the split is 'tain'.*; row 3: "):
        ManifestSource(path).samples()


def test_a_list_from_windows_or_with_blanks_finds_its_files(tmp_path):
    (tmp_path / "sad").mkdir()
    for name in ("sad/0.png", "1.png", "odd\\name.png"):
        Image.new("L", (8, 8), 9).save(tmp_path / name)
    rows = ("sad\\0.png,sad", " 1.png ,happy", "odd\\name.png,happy")
    samples = ManifestSource(manifest(tmp_path, "path,label", *rows)).samples()
    assert samples.ids == [b"sad/0.png", b"1.png", b"odd\\name.png"]


def test_manifest_paths_may_hold_any_bytes(tmp_path):
    odd = b"\xff\n.png"
    Image.new("L", (8, 8)).save(os.fsencode(tmp_path) + b"/" + odd, "PNG")
    path = manifest(tmp_path, "path,label", '"' + os.fsdecode(odd) + '",sad', "1.png,happy")
    assert ManifestSource(path).samples().ids == [odd, b"1.png"]


def test_a_manifest_stamp_follows_the_files_it_lists(tmp_path):
    path = manifest(tmp_path, "path,label", "0.png,sad", "1.png,happy")
    before = ManifestSource(path).stamp()
    assert ManifestSource(path).stamp() == before
    os.utime(tmp_path / "1.png", ns=(1, 1))
    assert ManifestSource(path).stamp() != before


def test_foreign_lines_behind_the_faces_are_refused_one_by_one(tmp_path):
    path = fer_csv(tmp_path / "a.csv", [*rows(), "@misc{a,", "title={x, y},", '"a"b,c,d', "}"])
    samples = FerCsvSource(path).samples()
    assert len(samples) == 3 and [place for place, _ in samples.refused] == [
        b"row 5",
        b"row 6",
        b"row 7",
        b"row 8",
    ]


def test_an_expression_may_be_a_word(tmp_path):
    words = ["Happy", "sadness", "surprised"]
    path = fer_csv(
        tmp_path / "a.csv",
        [f"{word},{row.split(',', 1)[1]}" for word, row in zip(words, rows(), strict=True)],
    )
    assert FerCsvSource(path).samples().labels_N.tolist() == [3, 4, 5]


@pytest.mark.parametrize("name", ["fer2013", "fer2013.txt", "fer2013.csv.gz", "packed"])
def test_a_csv_is_recognised_by_its_content(tmp_path, name):
    plain = fer_csv(tmp_path / "a.csv", rows()).read_bytes()
    path = tmp_path / name
    path.write_bytes(gzip.compress(plain) if name in ("fer2013.csv.gz", "packed") else plain)
    samples = find_source(str(path)).samples()
    assert len(samples) == 3 and not samples.refused


@pytest.mark.parametrize("name", ["fer2013.tar.gz", "fer2013.tar", "fer2013.csv.zip"])
def test_an_archive_is_refused_by_its_kind(tmp_path, name):
    table, path = fer_csv(tmp_path / "fer2013.csv", rows()), tmp_path / name
    if "tar" in name:
        with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as archive:
            archive.add(table, "fer2013/fer2013.csv")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(table, "fer2013.csv")
    kind = "tar" if "tar" in name else "zip"
    with pytest.raises(DataError, match=f"{re.escape(name)}: a {kind} archive; unpack it"):
        find_source(str(path))


def test_compressed_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(bytes(1000)))
    with pytest.raises(DataError, match="no text"):
        find_source(str(path))


def test_a_damaged_gzip_file_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(fer_csv(tmp_path / "a.csv", rows() * 200).read_bytes())[:-2000])
    with pytest.raises(DataError, match="can't be read"):
        FerCsvSource(path).samples()
