"""Rerun recordings of what a served policy decides: one for each episode of each client."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from spatialvla.serving.engine.service import Service
from spatialvla.serving.engine.turns import Client
from spatialvla.serving.engine.watching import WatchedDecision
from spatialvla.viz.rerun.background import Background
from spatialvla.viz.rerun.destination import Destination
from spatialvla.viz.rerun.recordings import Recordings
from spatialvla.viz.rerun.rig import Rig

if TYPE_CHECKING:
    from spatialvla.viz.rerun.episode import EpisodeRecording

log = logging.getLogger(__name__)

MOST_WAITING = 32
"""Decisions that wait to be written; each holds its pictures in memory."""

SILENCE = 60.0
"""Seconds without a decision after which an episode is taken to be over."""


@dataclass
class _Episode:
    """One that goes on. client: kept, so that no other one takes its place unnoticed. step: how many were told."""

    client: Client
    recording: EpisodeRecording
    step: int = 0
    heard: float = 0.0


class ServedRecorder:
    """A watcher that writes recordings in a thread of its own, so that no robot waits for them.

    Decisions that come faster than they are written are left out, which the log and the recording say.
    """

    watching = True

    def __init__(self, recordings: Recordings, most: int = MOST_WAITING, silence: float = SILENCE) -> None:
        self._recordings = recordings
        self._silence = silence
        self._began = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        self._number = 0
        self._open: dict[int, _Episode] = {}
        self._left_out = 0
        self._missing: Counter[int] = Counter()  # decisions left out since the last one written, by client
        self._background = Background(most, self._end_silent)

    def decided(self, decided: WatchedDecision) -> None:
        """Takes a decision, or leaves it out."""
        client = id(decided.client)
        if self._background.offer(partial(self._write, decided, self._missing[client])):
            del self._missing[client]
            return
        self._missing[client] += 1
        self._left_out += 1
        if self._left_out & (self._left_out - 1) == 0:  # the 1st, 2nd, 4th, 8th …
            log.warning(
                "%d decisions are missing in Rerun's recordings: they come faster than they are written.",
                self._left_out,
            )

    def ended(self, client: Client) -> None:
        """An episode is over."""
        self._background.require(partial(self._end, id(client), self._missing.pop(id(client), 0)))

    def close(self) -> None:
        """Writes what waits and makes the files complete."""
        self._background.require(self._end_all)
        if not self._background.close():
            log.warning("Rerun's recordings are not complete: writing them takes too long.")

    def _write(self, decided: WatchedDecision, missing: int) -> None:
        """missing: decisions that were left out before this one."""
        client = decided.client
        episode = self._open.get(id(client)) or self._begin(client)
        request, recording = decided.answer.request, episode.recording
        # Steps that were under way are part of this chunk, and were told before.
        committed = 0 if request.committed is None else len(request.committed)
        step, episode.heard = max(episode.step - committed, 0), monotonic()
        _tell_missing(episode, missing)
        seen, rig = request.observation, self._recordings.rig
        recording.show_cameras(
            step, seen.cameras(rig.first_camera), seen.instruction, rig.estimates(decided.depth)
        )
        recording.show_gripper(step, decided.fingertips)
        recording.show_chunk(step, decided.answer.chunk, len(decided.actions))
        for number, action in enumerate(decided.actions):
            recording.move(step + number, action)
        episode.step = step + len(decided.actions)

    def _begin(self, client: Client) -> _Episode:
        self._number += 1
        recording = self._recordings.open(f"{self._began}_{self._number:04d}")
        if client.address:
            recording.note(f"Asked by {client.address}.")
        episode = self._open[id(client)] = _Episode(client, recording)
        return episode

    def _end(self, client: int, missing: int = 0) -> None:
        if (episode := self._open.pop(client, None)) is not None:
            _tell_missing(episode, missing)
            episode.recording.end(episode.step)
            episode.recording.close()

    def _end_silent(self) -> None:
        for client, episode in list(self._open.items()):
            if monotonic() - episode.heard > self._silence:
                self._end(client)

    def _end_all(self) -> None:
        for client in list(self._open):
            self._end(client)


@contextmanager
def recorded(service: Service, destination: Destination) -> Iterator[Service]:
    """The service with all its decisions recorded, for as long as the block lasts; then the files are complete."""
    rig = Rig.of(service.policy, service.units)
    recorder = ServedRecorder(Recordings(destination, rig, f"{service.name} served"))
    try:
        yield replace(service, watchers=[*service.watchers, recorder])
    finally:
        recorder.close()


def _tell_missing(episode: _Episode, missing: int) -> None:
    if missing:
        episode.recording.warn(episode.step, f"{missing} decisions are missing before this step.")
