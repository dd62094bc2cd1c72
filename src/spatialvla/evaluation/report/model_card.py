"""A model card: README.md of a checkpoint's folder, with what the Hub reads of it and what people do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from huggingface_hub import EvalResult, ModelCardData

from spatialvla.actions.units import ActionUnits
from spatialvla.common.terminal import markdown
from spatialvla.errors import InputError
from spatialvla.evaluation.report.facts import small_print
from spatialvla.evaluation.results.document import Results
from spatialvla.model.hub import is_hub_id


@dataclass(frozen=True)
class CardFacts:
    """What a card says of a checkpoint.

    name: of the model. license: as the Hub writes it, such as apache-2.0; None leaves it open, and the card says so.
    base: what it was fine-tuned from. parameters: how many. chunk: steps of a chunk. cameras, state: names.
    datasets: the units of the actions of each, by their keys. hub_datasets: ids of datasets on the Hub.
    training: what the run was made of, in pairs of words.
    """

    name: str
    parameters: int
    chunk: int
    cameras: Sequence[str]
    state: Sequence[str]
    datasets: Mapping[str, ActionUnits]
    license: str | None = None
    base: str | None = None
    hub_datasets: Sequence[str] = ()
    training: Mapping[str, str] = field(default_factory=dict)


def model_card(card: CardFacts, evaluations: Sequence[Results] = ()) -> str:
    """README.md as text. evaluations: of this checkpoint; only complete ones go to the Hub's own table.

    Raises InputError for an evaluation of which nothing has been played.
    """
    for results in evaluations:
        if not results.total.trials:
            raise InputError(
                f"The evaluation of {results.policy} on {results.suite} has no episode yet; play some."
            )
    parts = [f"---\n{_metadata(card, evaluations)}\n---", f"# {markdown(card.name)}", _introduction(card)]
    parts += ["## Use", _use(card), "## Model", _pairs(_model(card))]
    parts += ["## Actions", _units(card)]
    if card.training:
        parts += ["## Training", _pairs(card.training)]
    parts += ["## Results", _results(evaluations)]
    parts += ["## License", _license(card), "## Citation", _CITATION]
    return "\n\n".join(parts) + "\n"


def _metadata(card: CardFacts, evaluations: Sequence[Results]) -> str:
    found = [
        EvalResult(
            task_type="robotics",
            task_name="Robotics",
            dataset_type=results.suite,
            dataset_name=results.suite,
            metric_type="success_rate",
            metric_value=round(results.total.rate, 4),
            metric_name=f"Success rate ({_rate(results)})",
        )
        for results in evaluations
        if results.complete
    ]
    data = ModelCardData(
        license=card.license,
        library_name="spatialvla",
        pipeline_tag="robotics",
        tags=["vision-language-action", "imitation-learning", "robotics", "spatialvla"],
        base_model=card.base if card.base and is_hub_id(card.base) else None,
        datasets=list(card.hub_datasets) or None,
        model_name=card.name,
        eval_results=found or None,
    )
    return str(data.to_yaml())


def _introduction(card: CardFacts) -> str:
    seen = "One RGB image" if len(card.cameras) == 1 else f"Images of {len(card.cameras)} cameras"
    state = ", the arm's state" if card.state else ""
    return (
        f"{seen}{state} and an instruction in, {card.chunk} actions of 7 degrees of freedom out: a "
        "[SpatialVLA](https://arxiv.org/abs/2501.15830) checkpoint in the published layout."
    )


def _use(card: CardFacts) -> str:
    key = next(iter(card.datasets), "")
    lines = [
        "from spatialvla import Observation, Policy",
        "",
        f'policy = Policy.from_pretrained("{card.name}", dataset="{key}")',
        'chunk = policy.act(Observation(image, "pick up the cup"))',
    ]
    return "```python\n" + "\n".join(lines) + "\n```"


def _model(card: CardFacts) -> dict[str, str]:
    found = {
        "parameters": f"{card.parameters:,}",
        "cameras": ", ".join(card.cameras),
        "state": ", ".join(card.state) or "none",
        "steps of a chunk": str(card.chunk),
    }
    return found | ({"fine-tuned from": card.base} if card.base else {})


def _units(card: CardFacts) -> str:
    lines = [
        "| dataset (`dataset=`) | 1 in an action | rotation | frame | control rate |",
        "|---|---|---|---|---|",
    ]
    for key, units in card.datasets.items():
        rate = "unknown" if units.control_hz is None else f"{units.control_hz:g} Hz"
        cells = (
            f"`{markdown(key)}`",
            units.describe(),
            units.rotation or "unknown",
            units.frame or "unknown",
            rate,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _results(evaluations: Sequence[Results]) -> str:
    if not evaluations:
        return "Not evaluated."
    lines = ["| suite | success | |", "|---|---|---|"]
    lines += [
        f"| {markdown(each.suite)} | {_rate(each)} | {markdown(small_print(each))} |" for each in evaluations
    ]
    return "\n".join(lines)


def _rate(results: Results) -> str:
    total = results.total
    low, high = total.interval
    return (
        f"{total.successes} of {total.trials} episodes, 95 % interval {100 * low:.0f} to {100 * high:.0f} %"
    )


def _license(card: CardFacts) -> str:
    if card.license:
        return f"`{markdown(card.license)}`."
    return "Not stated. The license of the checkpoint and of the data that it was trained on apply."


def _pairs(pairs: Mapping[str, str]) -> str:
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {markdown(a)} | {markdown(b)} |" for a, b in pairs.items())]
    )


_CITATION = """The method is that of Qu et al., *SpatialVLA: Exploring Spatial Representations for
Visual-Language-Action Model*, [arXiv 2501.15830](https://arxiv.org/abs/2501.15830)."""
