"""Names in files that lead out of their folder."""

import pytest

from spatialvla.common.files import inside


@pytest.mark.parametrize(
    "name", ["a", "a/b.json", "videos/observation.images.top/x.mp4", "..a", "a..b", "a b"]
)
def test_names_of_the_folder(tmp_path, name):
    assert inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../a",
        "a/../../b",
        "/etc/passwd",
        "a/..",
        "C:\\a",
        "..\\a",
        "\\\\host\\a",
        "a\0b",
        "a\nb",
    ],
)
def test_ways_out_of_the_folder(tmp_path, name):
    with pytest.raises(ValueError, match="is no name of a file in its folder"):
        inside(tmp_path, name)


def test_links_may_lead_elsewhere(tmp_path):
    """As the Hub's cache makes them."""
    (tmp_path / "blob").write_text("x")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "a.json").symlink_to("../blob")
    assert inside(tmp_path / "snapshot", "a.json").read_text() == "x"
