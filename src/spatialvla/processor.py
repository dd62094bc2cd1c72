"""Images, prompts and actions -> Batch, and tokens -> actions. Training and serving share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from PIL import Image

from spatialvla.actions.published_units import published_units
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.actions.units import ActionUnits
from spatialvla.batch import Batch
from spatialvla.collation import Prepared, SlotIds, collate
from spatialvla.common.names import did_you_mean
from spatialvla.errors import InputError
from spatialvla.geometry.camera import Camera, View
from spatialvla.processor_folder import RESERVED, StoredProcessor
from spatialvla.tokenizer import action_token

MAX_PROMPT_TOKENS = 1024
Keys = str | Sequence[str | None] | None
"""The dataset of all rows, or of each row."""
Scaling = Callable[[ActionStatistics, np.ndarray], np.ndarray]


class Processor(StoredProcessor):
    """Everything a checkpoint knows about its inputs and outputs, and what it does with it."""

    def __call__(
        self,
        images: Sequence[np.ndarray | Image.Image | None],
        prompts: Sequence[str],
        dataset: Keys = None,
        *,
        intrinsics: Sequence[np.ndarray | None] | None = None,
        depth: Sequence[np.ndarray] | None = None,
        extrinsics: Sequence[np.ndarray] | None = None,
        other_views: Sequence[Mapping[str, View]] | None = None,
        states: Sequence[np.ndarray | None] | None = None,
        actions: Float[np.ndarray, "B chunk 7"] | None = None,
        pad_to_multiple_of: int = 1,
        as_bytes: bool = False,
    ) -> Batch:
        """One row for each image and prompt.

        images: of the first camera, PIL images or (H, W, 3) uint8; gray and RGBA are converted. None where it is
        missing, or stands in `other_views`.
        prompts: used as they are.
        dataset: whose camera to assume and whose statistics normalize `actions`, one for all rows or one a
        row; None or "default" takes the default camera.
        intrinsics: K (3, 3) a row in pixels of the image as given, None for the dataset's.
        depth: (h, w) meters a row, on the image's field of view. extrinsics: (4, 4) a row, takes points
        back-projected by K to the robot's frame, in meters; it mirrors where the picture is mirrored.
        other_views: what the other cameras see, by their names, one mapping a row; those left out are missing.
        states: (S,) a row, how the arm stands, in the dataset's units; None where it is missing.
        actions: in the dataset's units; adds labels and pads on the right instead of the left.
        pad_to_multiple_of: inference prompts are padded to a multiple of so many tokens behind the image's,
        so that instructions of many lengths make batches of few. Padding is never attended to.
        as_bytes: leaves the pixels uint8, see `Batch`.
        Raises InputError on anything that cannot be used.
        """
        single = isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4)
        if single or isinstance(prompts, str):
            raise InputError("Images and prompts are lists; of one image write processor([image], [prompt]).")
        if len(images) == 0:
            raise InputError("The batch is empty; pass at least one image and prompt.")
        if len(prompts) != len(images):
            raise InputError(f"Got {len(images)} images and {len(prompts)} prompts; pass as many of each.")
        count = len(images)
        for name, given in (
            ("intrinsics", intrinsics),
            ("depth maps", depth),
            ("extrinsics", extrinsics),
            ("other views", other_views),
            ("states", states),
            ("action chunks", actions),
        ):
            if given is not None and len(given) != count:
                raise InputError(f"Got {count} images and {len(given)} {name}; pass as many of each.")
        keys = _one_a_row(dataset, count)
        cameras = [None] * count if intrinsics is None else intrinsics
        maps = [None] * count if depth is None else depth
        poses = [None] * count if extrinsics is None else extrinsics
        others = [None] * count if other_views is None else other_views
        arms = [None] * count if states is None else states
        rows = [
            self.prepare(
                image,
                prompt,
                key,
                intrinsics=matrix,
                depth=map_,
                extrinsics=pose,
                other_views=views,
                state=state,
            )
            for image, prompt, key, matrix, map_, pose, views, state in zip(
                images, prompts, keys, cameras, maps, poses, others, arms, strict=True
            )
        ]
        suffixes = None if actions is None else self._action_ids(actions, keys)
        return self.collate(rows, suffixes, pad_to_multiple_of, as_bytes)

    def prepare(
        self,
        image: np.ndarray | Image.Image | None,
        prompt: str,
        dataset: str | None = None,
        *,
        intrinsics: np.ndarray | None = None,
        depth: np.ndarray | None = None,
        extrinsics: np.ndarray | None = None,
        other_views: Mapping[str, View] | None = None,
        state: Real[np.ndarray, " S"] | None = None,
        committed: Int[np.ndarray, "P 3"] | None = None,
    ) -> Prepared:
        """One row, checked by itself, so that a bad one fails before it shares a batch with others.

        Arguments are those of one row of `__call__`; without an image the first camera is missing. committed: tokens
        of steps that are under way. Raises InputError on anything that cannot be used.
        """
        given = dict(other_views or {})
        first = self.camera_names[0]
        if unknown := given.keys() - set(self.camera_names):
            name = sorted(unknown)[0]
            raise InputError(f"The policy has no camera {name!r}; {did_you_mean(name, self.camera_names)}")
        if image is not None:
            if first in given:
                raise InputError(
                    f"The camera {first} is given twice, also as the image; leave out one of the two."
                )
            given[first] = View.of(image, intrinsics, depth, extrinsics)
        views = tuple(
            self._model_sized(given[name], dataset, name) if name in given else None
            for name in self.camera_names
        )
        if not given:
            raise InputError("The observation has no image; pass that of one camera at least.")
        return Prepared(
            views, self._prompt_ids(prompt), self.checked_tokens(committed), self._normalized(state, dataset)
        )

    def collate(
        self,
        rows: Sequence[Prepared],
        suffixes: Int[np.ndarray, "B ids"] | None = None,
        pad_to_multiple_of: int = 1,
        as_bytes: bool = False,
    ) -> Batch:
        """Rows -> a batch, as `collation.collate` says. suffixes: vocabulary ids of the actions to learn."""
        image, pad, eos = (self._ids[token] for token in ("<image>", "<pad>", "<eos>"))
        ids = SlotIds(image, pad, eos, self.image_token_num)
        return collate(rows, ids, suffixes, pad_to_multiple_of, as_bytes)

    @staticmethod
    def prompt(instruction: str, template: str = "{instruction}") -> str:
        """What a model is told of an instruction: the words in lower case, as it was trained on."""
        if not isinstance(instruction, str):
            raise InputError(f"An instruction is a string, not a {type(instruction).__name__}.")
        return template.replace("{instruction}", instruction.strip().lower())

    def check_instruction(self, instruction: str) -> None:
        """Raises InputError for what cannot be trained on: an empty, reserved or too long instruction."""
        self._prompt_ids(self.prompt(instruction))

    def camera(self, dataset: str | None, name: str | None = None) -> Camera:
        """The camera of a dataset, or the default one. name: of one of `camera_names`; None is the first.

        Raises InputError for an unknown dataset, and where nothing is known of the camera.
        """
        if dataset not in (None, "default", *self.cameras, *self.statistics):
            raise self._unknown(str(dataset), {**self.cameras, **self.statistics})
        first = name in (None, self.camera_names[0])
        known = self.cameras if first else self.other_cameras.get(str(name), {})
        found = known.get(dataset or "default", known.get("default"))
        if found is None:
            raise InputError(f"The policy does not know the intrinsics of the camera {name}; pass them.")
        return found

    def action_units(self, dataset: str | None) -> ActionUnits:
        """What 1 in a dataset's actions is: as the checkpoint states, or as is known of a published dataset."""
        stated = self.units.get(dataset or "")
        return published_units(dataset) if stated is None else stated

    def dataset_statistics(self, dataset: str | None) -> ActionStatistics:
        """The action statistics of a dataset. Raises InputError where there are none."""
        if dataset is None or dataset == "default":
            raise InputError(
                "Name the dataset whose statistics scale the actions (on the command line --dataset): "
                f"{', '.join(sorted(self.statistics))}."
            )
        if dataset not in self.statistics:
            raise self._unknown(dataset, self.statistics)
        return self.statistics[dataset]

    def dataset_for(self, dataset: str | None, suite: str | None = None) -> str:
        """Whose statistics scale the actions: the dataset's that is named, or was trained last, or is the only one.

        suite: a benchmark's, that is to be played; where no dataset is named, the one that is called so comes first.
        Raises InputError where that is not clear, and for a dataset without statistics.
        """
        if dataset is None:
            dataset = suite if suite in self.statistics else self.default_dataset
        if dataset is None and len(self.statistics) == 1:
            (dataset,) = self.statistics
        self.dataset_statistics(dataset)
        assert dataset is not None
        return dataset

    def states_of(self, dataset: str | None) -> tuple[str, ...]:
        """What the numbers of the state are; empty where the model takes none, or has seen none of the dataset."""
        return self.state_names if dataset in self.state_statistics else ()

    def _model_sized(self, view: View, dataset: str | None, name: str) -> View:
        """A view of the model's size, with the intrinsics that are assumed where it brings none."""
        view = view.resized(self.image_size)
        if view.intrinsics is None:
            assumed = self.camera(dataset, name).scaled_to(self.image_size, self.image_size)
            view = replace(view, intrinsics=assumed)
        return view

    def _normalized(self, state: np.ndarray | None, dataset: str | None) -> Float[np.ndarray, " S"] | None:
        """Raises InputError where the policy takes no state, or does not know the dataset's."""
        if state is None:
            return None
        if not self.state_names:
            raise InputError("This policy takes no state; leave it out.")
        key = self.default_dataset if dataset is None or dataset == "default" else dataset
        if key is None or key not in self.state_statistics:
            raise InputError(
                f"The policy has no statistics of the states of {key}; it has those of "
                f"{', '.join(sorted(self.state_statistics)) or 'no dataset'}."
            )
        return self.state_statistics[key].normalize(state)

    def decode(
        self, ids: Int[torch.Tensor, "B ids"] | Int[np.ndarray, "B ids"], dataset: Keys = None
    ) -> Float[np.ndarray, "B steps 7"]:
        """Vocabulary ids, 3 a step, as `generate` returns them -> actions in dataset units.

        dataset: whose units, one for all rows or one a row.
        Raises InputError where an id is not the kind of action token its slot asks for.
        """
        return self.actions(self.tokens(ids), dataset)

    def tokens(
        self, ids: Int[torch.Tensor, "B ids"] | Int[np.ndarray, "B ids"]
    ) -> Int[np.ndarray, "B steps 3"]:
        """Vocabulary ids, 3 a step -> tokens on the action grid."""
        array = ids.cpu().numpy() if isinstance(ids, torch.Tensor) else np.asarray(ids)
        if array.ndim != 2 or array.shape[1] == 0 or array.shape[1] % 3:
            raise InputError(f"Vocabulary ids must have shape (B, 3 * steps), got {array.shape}.")
        return array.reshape(len(array), -1, 3) - self.action_token_begin_idx

    def actions(
        self, tokens: Int[np.ndarray, "B steps 3"], dataset: Keys = None
    ) -> Float[np.ndarray, "B steps 7"]:
        """Tokens on the action grid -> actions in dataset units, as `decode`."""
        normalized = self.grid.decode(tokens)
        return self._scaled(ActionStatistics.denormalize, normalized, _one_a_row(dataset, len(normalized)))

    def encode(
        self, actions: Float[np.ndarray, "B steps 7"], dataset: Keys = None
    ) -> Int[np.ndarray, "B steps 3"]:
        """Actions in dataset units -> tokens of their cells: the inverse of `actions`.

        dataset: whose units, one for all rows or one a row.
        """
        return self.grid.encode(
            self._scaled(ActionStatistics.normalize, actions, _one_a_row(dataset, len(actions)))
        )

    def checked_tokens(self, tokens: np.ndarray | None) -> Int[np.ndarray, "P 3"]:
        """The first steps of a chunk as tokens on the action grid; None gives P = 0.

        Raises InputError for what cannot be that.
        """
        if tokens is None or np.size(tokens) == 0:
            return np.empty((0, 3), np.int64)
        steps = np.asarray(tokens)
        if steps.ndim != 2 or steps.shape[1] != 3 or len(steps) > self.action_chunk_size:
            raise InputError(
                f"A chunk has {self.action_chunk_size} steps of 3 tokens, got tokens of shape {steps.shape}."
            )
        self.grid.bin_indices(steps)
        return steps.astype(np.int64)

    def token_ids(self, chunks: Sequence[Int[np.ndarray, "_ 3"] | None]) -> Int[torch.Tensor, "B ids"]:
        """Tokens of each row's first steps -> 3 * chunk vocabulary ids a row, -1 where there are none."""
        ids = np.full((len(chunks), self.action_chunk_size, 3), -1)
        for row, tokens in zip(ids, chunks, strict=True):
            if tokens is not None:
                row[: len(tokens)] = tokens + self.action_token_begin_idx
        return torch.from_numpy(ids.reshape(len(ids), -1))

    @cached_property
    def action_token_begin_idx(self) -> int:
        """The vocabulary id of action token 0."""
        return self._id(action_token(0))

    @cached_property
    def _ids(self) -> Mapping[str, int]:
        """Of the tokens that no prompt may hold."""
        return {token: self._id(token) for token in RESERVED}

    def _scaled(
        self, scale: Scaling, actions: Float[np.ndarray, "B steps 7"], keys: Sequence[str | None]
    ) -> Float[np.ndarray, "B steps 7"]:
        """Each row scaled by its own dataset's statistics."""
        scaled = np.empty(actions.shape)
        for key in dict.fromkeys(keys):
            rows = [row for row, other in enumerate(keys) if other == key]
            scaled[rows] = scale(self.dataset_statistics(key), actions[rows])
        return scaled

    def _action_ids(self, actions: np.ndarray, keys: Sequence[str | None]) -> np.ndarray:
        actions = np.asarray(actions)
        if actions.ndim != 3 or actions.shape[1:] != (self.action_chunk_size, 7):
            raise InputError(
                f"Actions must have shape (B, {self.action_chunk_size}, 7), got {actions.shape}."
            )
        return self.encode(actions, keys).reshape(len(actions), -1) + self.action_token_begin_idx

    def _prompt_ids(self, prompt: str) -> list[int]:
        if not isinstance(prompt, str):
            raise InputError(f"Prompts must be strings, got {type(prompt).__name__}.")
        text = prompt.removeprefix("<image>").strip()
        if not text:
            raise InputError("A prompt is empty; say what the robot should do.")
        if not _is_unicode(text):
            raise InputError(
                f"The prompt {text[:60]!r} holds bytes that are no text; type or save it in UTF-8."
            )
        ids = self.tokenizer.encode(text + "\n", add_special_tokens=False).ids
        first_action = self.action_token_begin_idx
        reserved = self._ids.values()
        if any(i in reserved or first_action <= i < first_action + self.grid.size for i in ids):
            raise InputError(f"The prompt {text[:60]!r} contains a reserved token; leave it out.")
        if len(ids) > MAX_PROMPT_TOKENS:
            raise InputError(
                f"The instruction is too long: {len(ids)} tokens, at most {MAX_PROMPT_TOKENS} are allowed."
            )
        return [self._ids["<bos>"], *ids]

    @staticmethod
    def _unknown(dataset: str, known: Mapping[str, Any]) -> InputError:
        return InputError(
            f"The checkpoint knows no dataset {dataset!r}; {did_you_mean(dataset, sorted(known))}"
        )


def _one_a_row(dataset: Keys, rows: int) -> Sequence[str | None]:
    if dataset is None or isinstance(dataset, str):
        return [dataset] * rows
    if len(dataset) != rows:
        raise InputError(
            f"Got {rows} rows and {len(dataset)} datasets; pass one for all, or as many of each."
        )
    return dataset


def _is_unicode(text: str) -> bool:
    """False for text with bytes that could not be decoded, which Python keeps as halves of characters."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
