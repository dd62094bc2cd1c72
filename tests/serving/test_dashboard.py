"""The page of a served policy over plain HTTP: what it shows, and what may be tried."""

import io
import re
import socket
import time

import numpy as np
import pytest
from fake_policy import DATASET, expected
from openpi_clients import client_of
from PIL import Image
from running import K, picture, plain
from watched import WatchedPolicy, png, watched

from spatialvla.actions.units import LIBERO as LIBERO_UNITS
from spatialvla.errors import InputError
from spatialvla.serving.dashboard.robots import Robots
from spatialvla.serving.dashboard.server import dashboard
from spatialvla.serving.guard.access import Access
from spatialvla.serving.guard.limits import Limits
from spatialvla.serving.guard.traffic import TrafficLimits
from spatialvla.types import ActionChunk, Observation, Uncertainty

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\" onmouseover='alert(1)' {{7*7}}"


def opened(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_the_page_comes_with_all_that_it_needs_from_here():
    with watched() as (_, page):
        text = page.get("/").text
        own = re.findall(r'(?:src|href)="([^"]+)"', text)
        assert own
        assert all(address.startswith("/") and not address.startswith("//") for address in own)
        for address in own:
            assert page.get(address).status == 200
        for name in ("..%2f..%2fpyproject.toml", "page.html", "htmx.LICENSE", "nothing"):
            assert page.get(f"/static/{name}").status == 404
        assert page.get("/nothing").status == 404


def test_what_happens_is_shown_while_it_happens():
    with watched(limits=Limits.load("franka")) as (running, page):
        assert "No robot has asked yet" in page.get("/live").text
        robot = client_of(running)
        robot.infer(plain(200, position=[0.5, 0, 0.4]))
        text = page.get("/live").text
        assert "task 200" in text
        assert "translation limited in 4 of 4 steps" in text
        assert "pale: predicted" in text, "what is sent is not what was predicted"
        assert "decision 1<" in text
        for stage in ("decode", "prepare", "queue", "infer", "post"):
            assert f"<td>{stage} <" in text
        robot.infer(plain(201, position=[0.5, 0, 0.4]))
        text = page.get("/live").text
        assert "task 200" not in text
        assert "task 201" in text
        assert "decision 2<" in text
        client_of(running).infer(plain(7, position=[0.5, 0, 0.4]))
        assert re.findall(r'id="(robot-\d)"', page.get("/live").text) == ["robot-1", "robot-2"]


def test_pictures_and_depth_are_those_of_the_last_request():
    with watched() as (running, page):
        page.get("/live")
        large = np.zeros((1500, 1000, 3), np.uint8)
        large[..., 1] = 200
        client_of(running).infer({"image": large, "instruction": "go"})
        page.get("/live")
        answer = page.get("/robot/1/0/image.jpg?1")
        assert answer.headers["Content-Type"] == "image/jpeg"
        shown = opened(answer.body)
        assert shown.shape == (500, 334, 3), "thinned out to at most 640 pixels a side"
        assert np.abs(shown.astype(int) - [0, 200, 0]).max() < 10
        depth = opened(page.get("/robot/1/0/depth.jpg?1").body)
        assert depth.shape == shown.shape
        assert np.abs(depth[0, 0].astype(int) - [253, 231, 37]).max() < 30, "near is yellow"
        assert np.abs(depth[-1, -1].astype(int) - [68, 1, 84]).max() < 30, "far is purple"
        for path in (
            "/robot/2/0/image.jpg",
            "/robot/1/1/image.jpg",
            "/trial/1/0/image.jpg",
            "/robot/x/0/image.jpg",
        ):
            assert page.get(path).status == 404


def test_no_depth_is_estimated_for_nobody():
    with watched() as (running, page):
        client_of(running).infer(plain(1))
        assert page.get("/robot/1/0/image.jpg").status == 200, "the last picture is there for who comes late"
        assert page.get("/robot/1/0/depth.jpg").status == 404


def test_a_sensors_depth_is_shown_as_measured():
    with watched() as (running, page):
        depth = np.full((16, 16), 0.75, np.float32)
        depth[0] = 1.25
        client_of(running).infer(plain(1, depth=depth))
        text = page.get("/live").text
        assert "depth, measured" in text
        assert "0.75 m" in text
        assert "1.25 m" in text


def test_where_the_gripper_is_sent_is_drawn_where_that_is_known():
    looking_down = np.diag([1.0, -1.0, -1.0, 1.0])
    looking_down[:3, 3] = [0.5, 0.0, 1.0]  # a meter above the gripper's place
    with watched(units=LIBERO_UNITS) as (running, page):
        robot = client_of(running)
        known = {"intrinsics": K, "extrinsics": looking_down, "position": np.array([0.5, 0.0, 0.0])}
        robot.infer(plain(200, **known))
        text = page.get("/live").text
        actions = expected(Observation(picture(200), "task 200"))
        moved = np.concatenate([[np.zeros(3)], np.cumsum(actions[:, :3] * LIBERO_UNITS.meters, axis=0)])
        depth = 1 - moved[:, 2]
        pixels = np.stack([8 + 16 * moved[:, 0] / depth, 8 - 16 * moved[:, 1] / depth], axis=1)
        (drawn,) = re.findall(r'<polyline class="sent" points="([^"]+)"', text)
        found = np.array([point.split(",") for point in drawn.split()], float)
        np.testing.assert_allclose(found, pixels, atol=0.051)
        for missing in known:
            robot.infer(plain(200, **{name: value for name, value in known.items() if name != missing}))
            assert "<polyline" not in page.get("/live").text, missing


def test_what_clients_say_is_text_and_nothing_else():
    with watched() as (running, page):
        client_of(running).infer({**plain(1), "instruction": HOSTILE})
        answer = page.post("/try", {"camera-0": png(), "instruction": HOSTILE, "dataset": DATASET})
        refused = page.post("/try", {"camera-0": png(), "instruction": "go", "dataset": HOSTILE})
        for text in (page.get("/live").text, answer.text, refused.text):
            assert "&lt;script&gt;alert" in text
            assert "<script" not in text
            assert "<img src=x" not in text
            assert '" onmouseover' not in text
            assert "{{7*7}}" in text


def test_how_sure_the_policy_was_is_shown_where_it_tells():
    class Unsure(WatchedPolicy):
        def _chunk(self, seen, batch):
            chunk = super()._chunk(seen, batch)
            steps = len(chunk.actions)
            unsure = Uncertainty(np.tile([1.25, 2.5, 0.125], (steps, 1)), np.full(steps, 12.34))
            return ActionChunk(chunk.actions, chunk.tokens, unsure)

    with watched(Unsure()) as (running, page):
        client_of(running).infer(plain(1))
        text = page.get("/live").text
        assert "spread mm" in text
        assert text.count('unsure">12.3<') == 4
        assert text.count('unsure">2.50<') == 4


# -------------------------------------------------------------------- trials


def test_a_picture_tried_by_hand_gets_the_policys_answer():
    policy = WatchedPolicy()
    with watched(policy, units=LIBERO_UNITS) as (running, page):
        answer = page.post("/try", {"camera-0": png(3), "instruction": " Pick it up ", "dataset": DATASET})
        assert answer.status == 200
        assert "Pick it up" in answer.text
        assert policy.seen[-1].instruction == "Pick it up"
        assert np.array_equal(np.asarray(policy.seen[-1].images["image"].image), opened(png(3)))
        seen = policy.prepare(policy.seen[-1]).views[0].image
        first = expected(Observation(seen, "Pick it up"))[0, 0]
        units = policy.processor.action_units(DATASET)
        assert f"{1000 * units.meters * first:+.2f}" in answer.text
        shown = opened(page.get("/trial/1/0/image.jpg").body)
        assert shown.shape == (24, 32, 3)
        assert page.get("/trial/1/0/depth.jpg").status == 200
        assert "No robot has asked yet" in page.get("/live").text, "it is no robot"
        assert running.value("clamped_steps_total", limit="translation") == 0


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"camera-0": b"no picture"}, "is no picture of a format that is read"),
        ({"camera-0": png(file_format="GIF")}, "cannot be used"),
        ({"camera-0": png()[:200]}, "cannot be used"),
        ({}, "Choose a picture"),
        ({"camera-0": b""}, "cannot be used"),
        ({"camera-7": png()}, "Choose a picture"),
        ({"camera-0": png(), "instruction": ""}, "instruction is empty"),
        ({"camera-0": png(), "instruction": png()}, "instruction is empty"),
        ({"camera-0": png(), "instruction": "x" * 1001}, "1000 are allowed"),
        ({"camera-0": png(), "dataset": "elsewhere"}, "elsewhere"),
        ({"camera-0": png(), "instruction": "crash"}, "log has details"),
        ({"camera-0": png(), "instruction": "nan"}, "NaN or infinity"),
    ],
)
def test_a_trial_that_cannot_be_answered_says_why(fields, sentence):
    with watched() as (_, page):
        answer = page.post("/try", {"instruction": "go", "dataset": DATASET, **fields})
        assert answer.status == 200
        assert sentence in answer.text
        assert "secret" not in answer.text
        assert "object at 0x" not in answer.text
        again = page.post("/try", {"camera-0": png(), "instruction": "go", "dataset": DATASET})
        assert "<table>" in again.text, "the next one is answered"


def test_uploads_are_bounded():
    with watched(traffic=TrafficLimits(max_message_mb=0.1)) as (_, page):
        big = {"camera-0": png(size=(256, 256)), "instruction": "go", "dataset": DATASET}
        assert page.post("/try", big).status == 413
        assert page.post("/try", {**big, "camera-0": png()}).status == 200


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=x", b"no part"),
        ("application/x-www-form-urlencoded; charset=none", b"key=a"),
        ("application/x-www-form-urlencoded", b"key=\xff"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="key"\r\n\r\n\xff\r\n--x--\r\n',
        ),
    ],
)
def test_a_form_that_cannot_be_read_is_the_visitors_fault(kind, body, caplog):
    with watched() as (_, page):
        for path in ("/login", "/try"):
            answer = page.ask("POST", path, body, Content_Type=kind, Origin=page.origin)
            assert (answer.status, answer.text) == (400, "that is no form that can be read\n")
    assert "failed" not in caplog.text


def test_large_photographs_are_shrunk_before_the_policy_sees_them():
    policy = WatchedPolicy()
    with watched(policy) as (_, page):
        photo = png(size=(2200, 3000), file_format="JPEG")
        answer = page.post("/try", {"camera-0": photo, "instruction": "go", "dataset": DATASET})
        assert "<table>" in answer.text
        assert policy.seen[-1].images["image"].image.size == (1024, 751)


# ------------------------------------------------------------ beside the robots


def test_of_many_robots_the_last_ones_are_kept():
    with watched() as (running, page):
        for number in range(10):
            client_of(running).infer(plain(number))
        shown = re.findall(r'id="robot-(\d+)"', page.get("/live").text)
        assert shown == [str(number) for number in range(3, 11)]


def test_browsers_that_do_not_read_stop_neither_robots_nor_others():
    with watched() as (running, page):
        stalled = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(20)]
        for number, connection in enumerate(stalled):
            connection.sendall(
                b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\n" + (b"\r\n" if number % 2 else b"")
            )
        robot = client_of(running)
        began = time.perf_counter()
        for number in range(5):
            robot.infer(plain(number))
        assert page.get("/live").status == 200
        assert time.perf_counter() - began < 5
        for connection in stalled:
            connection.close()


def test_more_connections_than_a_page_needs_are_turned_away():
    with watched() as (_, page):
        held = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(32)]
        time.sleep(0.2)
        with pytest.raises(OSError, match=r"(?i)reset|closed|abort"):
            page.get("/live")
        for connection in held:
            connection.close()
        time.sleep(0.2)
        assert page.get("/live").status == 200


def test_a_taken_port_is_told():
    with watched() as (running, page):
        robots = Robots(("image",), LIBERO_UNITS)
        with (
            pytest.raises(InputError, match=r"cannot be served on 127\.0\.0\.1"),
            dashboard(running.service, robots, host="127.0.0.1", port=page.port, access=Access()),
        ):
            pass
