import pytest

from fer_ignite.cli.sources import find_files
from fer_ignite.errors import ConfigError


@pytest.mark.parametrize("name", ["runs/lr-0.05", "runs/x", "x.pt", "x.onnx"])
def test_a_url_that_names_no_picture_is_a_network(name):
    with pytest.raises(ConfigError, match=r"is a checkpoint, which goes first and once"):
        list(find_files([f"s3://b/{name}"]))


def test_a_url_of_a_picture_is_no_network():
    with pytest.raises(ConfigError, match=r"there is no file s3://b/face.png"):
        list(find_files(["s3://b/face.png"]))
