"""A training under way in a file: all that the next run needs to go on as if nothing had happened.

Tensors in safetensors, the rest as JSON in its header; reading it runs no code.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save
from torch import Tensor

from ditta_core.datasets.names import DataWarning
from ditta_core.domain.loss_means import LossMeans
from ditta_core.domain.recipe import PseudoLabels, Recipe
from ditta_core.segmentation.files import open_regular, write_atomically

FORMAT = "2"
KEY = "ditta_training"


class TrainingStateError(ValueError):
    """The file of an earlier run cannot be gone on with; the message says why, and the remedy."""


@dataclass(frozen=True)
class Position:
    """Where a training is.

    Attributes:
        step: Number of steps made.
        seconds: Duration of the training so far.
        number: Round that the pseudo-labels are of; -1 before the first.
        thresholds: Thresholds of every round, by class.
        labelled: Share of the pixels that every round labelled.
        losses: Means of the named terms over the steps of every part of the schedule.
    """

    step: int = 0
    seconds: float = 0.0
    number: int = -1
    thresholds: tuple[tuple[float, ...], ...] = ()
    labelled: tuple[float, ...] = ()
    losses: LossMeans = field(default_factory=LossMeans)


def save_training(
    path: Path,
    fingerprint: str,
    position: Position,
    recipe: Recipe,
    optimizers: Iterable[torch.optim.Optimizer],
    labels: PseudoLabels | None,
) -> None:
    """Write a training to a file, replacing what is there in one step.

    Args:
        fingerprint: of everything that the training depends on.

    Raises:
        OSError: it cannot be written.
    """
    tensors: dict[str, NDArray[Any]] = {
        f"recipe.{name}": value.detach().cpu().numpy() for name, value in recipe.state_dict().items()
    }
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{number}.{index}.{name}"] = value.detach().cpu().numpy()
    if labels is not None:
        tensors["labels"] = labels.labels
    values = {"format": FORMAT, "fingerprint": fingerprint, "position": asdict(position)}
    # In C order, because safetensors writes the values of any other array in the order in which they lie in memory.
    data = save({name: np.array(value, order="C") for name, value in tensors.items()}, {KEY: json.dumps(values)})
    write_atomically(path, data)


def keep_training(path: Path, *state: Any) -> None:
    """As :func:`save_training`, with a warning where it cannot be written: a full disk must not end a training."""
    try:
        save_training(path, *state)
    except OSError as error:
        warnings.warn(f"the training goes on, but an interruption would lose it: {error}", DataWarning, stacklevel=1)


def _numbers(terms: Mapping[str, float]) -> dict[str, float]:
    return {str(name): float(value) for name, value in terms.items()}


def load_training(
    path: Path, fingerprint: str, recipe: Recipe, optimizers: Iterable[torch.optim.Optimizer]
) -> tuple[Position, PseudoLabels | None]:
    """Go on with a training: put its state into recipe and optimisers, and tell where it is.

    Raises:
        TrainingStateError: the file is of another training, damaged or something else.
    """
    remedy = f"delete {path}, or start over with --fresh"
    try:
        with open_regular(path) as file:
            data = file.read()
        length = int.from_bytes(data[:8], "little")
        values = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][KEY])
        if values["format"] != FORMAT:
            raise TrainingStateError(
                f"expected an interrupted adaptation of this version in {path}, but it was written by another version "
                f"of this package; finish it with that one, or {remedy}"
            )
        tensors = load(data)
        same = values["fingerprint"] == fingerprint
        stored = values["position"]
        position = Position(
            int(stored["step"]),
            float(stored["seconds"]),
            int(stored["number"]),
            tuple(tuple(map(float, each)) for each in stored["thresholds"]),
            tuple(map(float, stored["labelled"])),
            LossMeans(
                tuple((int(step), _numbers(terms)) for step, terms in stored["losses"]["finished"]),
                int(stored["losses"]["part"]),
                int(stored["losses"]["count"]),
                _numbers(stored["losses"]["sums"]),
            ),
        )
    except TrainingStateError:
        raise
    except Exception as error:  # whatever a parser makes of what lies there
        raise TrainingStateError(
            f"expected an interrupted adaptation in {path}, but it is damaged or something else "
            f"({type(error).__name__}); {remedy}"
        ) from error
    if not same:
        raise TrainingStateError(
            f"expected {path} to be of this very adaptation, but it is of other drives, another model or other "
            f"settings; give the same command to go on with it, or {remedy}"
        )
    try:
        recipe.load_state_dict(
            {
                name.removeprefix("recipe."): torch.from_numpy(value.copy())
                for name, value in tensors.items()
                if name.startswith("recipe.")
            }
        )
        for number, optimizer in enumerate(optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                kind, _, rest = name.partition(f"optimizer.{number}.")
                if not kind and rest:
                    index, _, field = rest.partition(".")
                    state.setdefault(int(index), {})[field] = torch.from_numpy(value.copy())
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    except (RuntimeError, ValueError, KeyError) as error:
        raise TrainingStateError(f"expected the state of this recipe in {path}, but got: {error}; {remedy}") from error
    labels = None
    if "labels" in tensors:
        labels = PseudoLabels(tensors["labels"].copy(), position.thresholds[-1] if position.thresholds else ())
    return position, labels
