import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from some_results import some_results

from spatialvla.actions.grids import ActionGrid
from spatialvla.evaluation.play.decisions import KeptDecision
from spatialvla.evaluation.play.episode_video import write_video
from spatialvla.evaluation.report.episodes_page import write_report
from spatialvla.evaluation.results.outcomes import EpisodeResult
from spatialvla.types import ActionChunk, Observation


class Page(HTMLParser):
    """Every tag with its attributes, which tags are unbalanced, and the text."""

    VOID = ("meta", "img", "link", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    frame = np.full((32, 32, 3), 90, np.uint8)
    write_video(folder / "video.mp4", [(0, frame), (4, frame)], 20)
    rng = np.random.default_rng(0)
    grid = ActionGrid.uniform()
    image = rng.integers(0, 255, (32, 32, 3), np.uint8)
    intrinsics = np.array([[32.0, 0, 16], [0, 32, 16], [0, 0, 1]])
    chunk = ActionChunk(np.zeros((4, 7)), grid.encode(rng.uniform(-1, 1, (4, 7))))
    decision = KeptDecision(0, Observation(image, "pick up", intrinsics), chunk)
    results = some_results(
        "+-",
        tasks={0: "pick up <the> bowl & go", 1: "never played"},
        policy_path="runs/<mine>",
        command="spatialvla evaluate --policy 'runs/<mine>' --suite libero_spatial",
        episodes=(
            EpisodeResult(0, 0, True, 80, 4.0, "video.mp4"),
            EpisodeResult(0, 1, False, 220, 9.0, None, partial=True),
        ),
    )
    policy = SimpleNamespace(
        processor=SimpleNamespace(grid=grid),
        camera_names=("image",),
        depth=lambda seen: rng.uniform(0.5, 1.5, (len(seen), 32, 32)),
    )
    write_report(results, {0: [decision]}, policy, folder / "report.html")
    return folder


def test_the_page_is_well_formed_and_needs_nothing_from_outside(saved):
    html = (saved / "report.html").read_text(encoding="utf-8")
    assert {file.name for file in saved.iterdir()} == {"report.html", "video.mp4"}
    page = Page(html)
    assert page.open == []
    addresses = [
        address
        for _, a in page.tags
        for key, address in a.items()
        if key in ("src", "href", "poster", "action")
    ]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    without_data = re.sub(r'"data:[^"]*"', "", html)
    assert not re.search(r"https?:|url\(|@import", without_data)
    assert not page.all("link")


def test_the_page_shows_rates_episodes_and_pictures(saved):
    page = Page((saved / "report.html").read_text(encoding="utf-8"))
    assert "50 %" in page.text
    assert "1 of 2 episodes succeeded, 95 % interval 9 to 91 %" in page.text
    assert "pick up <the> bowl & go" in page.text
    assert page.text.count("✓ Success") == 1
    assert page.text.count("× Failure") == 1
    assert "Start 1 · 220 steps, 9 s, partial success" in page.text
    (video,) = page.all("video")
    poster = Image.open(io.BytesIO(base64.b64decode(video["poster"].split(",")[1])))
    assert np.asarray(poster).mean() == pytest.approx(90, abs=4)
    assert base64.b64decode(video["src"].split(",")[1]) == (saved / "video.mp4").read_bytes()
    pictures = [Image.open(io.BytesIO(base64.b64decode(i["src"].split(",")[1]))) for i in page.all("img")]
    assert len(pictures) == 3  # depth, points, grid
    assert all(picture.format == "WEBP" and picture.width > 600 for picture in pictures)
    assert all(image["alt"] for image in page.all("img"))


def test_the_page_names_the_command_and_the_checkpoint(saved):
    text = Page((saved / "report.html").read_text(encoding="utf-8")).text
    assert (
        text.count("spatialvla evaluate --policy 'runs/<mine>' --suite libero_spatial") == 2
    )  # above and below
    assert "Checkpoint runs/<mine>, SHA-256 0123456789abcdef" in text


def test_the_page_explains_its_marks_axes_and_symbols(saved):
    text = Page((saved / "report.html").read_text(encoding="utf-8")).text
    for term in ("✓ and ×", "95 % interval", "θ, φ, r", "Axes", "Normalized", "Red marks", "Depth", "Points"):
        assert term in text
    assert "Gripper by step: closed, closed, closed, closed" in text


def test_tables_scroll_and_videos_have_their_size(saved):
    html = (saved / "report.html").read_text(encoding="utf-8")
    assert html.count("<table") == len(re.findall(r'<div class="scroll"[^>]*><table', html)) == 1
    (video,) = Page(html).all("video")
    assert (video["width"], video["height"]) == ("384", "384")


def test_links_within_the_page_lead_somewhere(saved):
    page = Page((saved / "report.html").read_text(encoding="utf-8"))
    places = {a["id"] for _, a in page.tags if "id" in a}
    links = [a["href"][1:] for a in page.all("a")]
    assert links
    assert set(links) <= places


def test_a_video_that_is_not_there_is_said_to_be_missing(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "secret.mp4").write_bytes(b"of somebody else")
    out = tmp_path / "out"
    out.mkdir()
    (out / "broken.mp4").write_bytes(b"no video")
    names = ("gone.mp4", "broken.mp4", "../secret.mp4", str(tmp_path / "secret.mp4"), "<b>.mp4")
    episodes = tuple(EpisodeResult(0, state, True, 80, 4.0, name) for state, name in enumerate(names))
    results = some_results("+++++", episodes=episodes)
    write_report(results, {}, SimpleNamespace(), out / "report.html")
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    assert not page.all("video")
    for said in (
        "gone.mp4 is missing",
        "broken.mp4 cannot be shown",
        "secret.mp4 cannot be shown",
        "<b>.mp4 is m",
    ):
        assert said in page.text
    assert base64.b64encode(b"of somebody else").decode() not in (out / "report.html").read_text()
