"""`spatialvla export`: a run or an adapter as a folder that every verb, and `from_pretrained`, can load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spatialvla.cli.dataset_options import DatasetOptions, FlatDatasetOptions
from spatialvla.cli.verb import Verb
from spatialvla.common.output_folder import check_output_folder
from spatialvla.errors import InputError
from spatialvla.types import Readout

if TYPE_CHECKING:
    from spatialvla.edge.settings import Kind
    from spatialvla.evaluation.results.document import Results
    from spatialvla.model.spatialvla import SpatialVLA
    from spatialvla.processor import Processor
    from spatialvla.training.config import TrainConfig


@dataclass(frozen=True)
class Export(Verb):
    """Write a run's newest weights, or an adapter, as a checkpoint."""

    policy: str
    """Folder of a training run or of an adapter (or any checkpoint, to change its dtype)."""

    out: Path
    """Folder to write."""

    base: str | None = None
    """Base of an adapter, or what a run of mode adapt started from: a checkpoint; None takes the one that they name."""

    merge: bool = False
    """Merge a LoRA adapter into its base; otherwise the adapter alone is written."""

    start_share: float = 0.0
    """How much of the policy that a run started from is mixed into its weights, 0 to 1; so it forgets less of that."""

    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the weights in the files; auto is fp32, and bf16 around weights in 4 bits."""

    precision: Literal["full", "int4"] = "full"
    """int4 keeps the weights of the decoder's layers in 4 bits, for inference; see --dataset and --samples."""

    towers: bool = False
    """Keep the vision towers' weights in 4 bits, too."""

    text_head: bool = False
    """Keep the head's rows of text beside weights in 4 bits: 1.2 GB of the 4 B model, needed for text alone."""

    fit_rotations: tuple[Literal["roll", "pitch", "yaw"], ...] = ()
    """Decode the fastest of these rotations, which statistics clip, to their mean in --dataset; no token changes."""

    readout: Readout | None = None
    """Write that the policy's actions are to be the mean over all tokens, or those of the likeliest; None keeps it."""

    calibration: FlatDatasetOptions = field(default_factory=DatasetOptions)
    """What rotations are fitted to, and weights in 4 bits; these are rounded to the nearest without any."""

    samples: int = 128
    """Samples of the datasets that weights in 4 bits are fitted to."""

    max_shard_size: str = "5GB"
    """Above this the weights are split over several files with an index."""

    to: Literal["folder", "hub-folder", "onnx", "torch-export"] = "folder"
    """hub-folder adds a model card; onnx and torch-export write graphs for the edge instead (docs/how-to/edge.md)."""

    action_key: str | None = None
    """Of graphs: the dataset whose statistics scale the actions; None takes the one trained last, or the only one."""

    prompt_tokens: int = 32
    """Of graphs: room for so many tokens of an instruction."""

    name: str | None = None
    """Of the model, on its card; the folder's name unless given."""

    license: str | None = None
    """Of the weights, on the card, as the Hub writes it: apache-2.0, gemma …"""

    results: tuple[Path, ...] = ()
    """Results of `spatialvla evaluate` for the card, of this policy: folders or files."""

    push: str | None = None
    """Hub id to upload the folder to, with its card; HF_TOKEN or `hf auth login` says who you are."""

    private: bool = False
    """Make a repository that --push creates private."""

    def run(self) -> None:
        """Writes, and says where."""
        check_output_folder(self.out)
        if self.to == "onnx" or self.to == "torch-export":
            return self._export_graphs(self.to)
        import torch

        from spatialvla.training.checkpoints.export import export

        card = self.to == "hub-folder" or self.push is not None
        if not card and (self.license or self.results or self.name):
            raise InputError("--name, --license and --results are for the model card; add --to hub-folder.")
        evaluations = self._evaluations()
        if self.fit_rotations and not self._calibrated:
            raise InputError("--fit-rotations needs data of the robot; name them by --dataset.")
        unused = self._calibrated and not self.fit_rotations
        if self.precision == "full" and (self.towers or self.text_head or unused):
            raise InputError(
                "--towers, --text-head and --dataset are for weights in 4 bits; add --precision int4, or "
                "--fit-rotations for the dataset."
            )
        auto = torch.float32 if self.precision == "full" else torch.bfloat16
        dtypes = {"auto": auto, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        export(
            self.policy,
            self.out,
            base=self.base,
            merge=self.merge,
            start_share=self.start_share,
            dtype=dtypes[self.dtype],
            quantize=self._quantize if self.precision == "int4" else None,
            refit=self._refit,
            max_shard_size=self.max_shard_size,
        )
        if card:
            self._write_card(evaluations)
        print(f"Wrote {self.out}")
        if self.push is not None:
            from spatialvla.model.hub import upload_folder

            print(f"Uploaded it to {upload_folder(self.out, self.push, private=self.private)}")

    @property
    def _calibrated(self) -> bool:
        return bool(self.calibration.dataset) or self.calibration.mixture is not None

    def _refit(self, processor: Processor) -> Processor:
        if self.readout is not None:
            processor = replace(processor, readout=self.readout)
        if not self.fit_rotations:
            return processor
        from spatialvla.common.cache_folder import cache_folder
        from spatialvla.training.rotation_fit import fit_rotations

        return fit_rotations(processor, self.calibration.configurations(), self.fit_rotations, cache_folder())

    def _quantize(self, model: SpatialVLA, processor: Processor) -> None:
        from spatialvla.common.terminal import Terminal
        from spatialvla.model.quantization_entry import Quantization
        from spatialvla.training.calibration import quantize_on

        options = Quantization(towers=self.towers, text_head=self.text_head)
        datasets = self.calibration.configurations() if self._calibrated else ()
        console, layers = Terminal(stderr=True), model.config.text.num_hidden_layers
        quantize_on(
            model,
            processor,
            options,
            datasets,
            self.samples,
            lambda done: console.print(f"{done} of {layers} layers in 4 bits"),
        )

    def _export_graphs(self, kind: Kind) -> None:
        from spatialvla.common.cpu import tune_cpu
        from spatialvla.edge.export import export_graphs
        from spatialvla.policy import Policy

        changed = self.merge or self.start_share != 0 or bool(self.fit_rotations) or self.readout is not None
        of_weights = changed or self.dtype not in ("auto", "fp32") or self.precision != "full"
        of_card = self.push or self.license or self.results or self.name
        if of_weights or of_card or self.towers or self.text_head or self._calibrated:
            raise InputError(
                f"--to {kind} writes graphs in fp32, with any adapter in them; leave out --merge, --start-share, "
                "--fit-rotations, --readout, --dtype, --push and what is for weights in 4 bits or for a model card."
            )
        tune_cpu()
        policy = Policy.from_pretrained(
            self.policy, dataset=self.action_key, base=self.base, speculate=False, readout="likeliest"
        )
        if policy.processor.readout != policy.readout:
            print(
                "Graphs say the actions of the likeliest tokens; this policy is meant to say the mean over all."
            )
        checked = export_graphs(policy, self.out, kind, self.prompt_tokens)
        print(
            f"Wrote {self.out}; all {checked.tokens} tokens of {checked.chunks} chunks are the policy's own"
        )

    def _evaluations(self) -> list[Results]:
        """What --results name. Raises InputError for those of other weights than the policy's."""
        from spatialvla.evaluation.results.comparison import short_hash
        from spatialvla.evaluation.results.merging import load_results
        from spatialvla.evaluation.results.provenance import hash_checkpoint
        from spatialvla.model.folders import resolve_folder

        evaluations = load_results(self.results)
        digest = hash_checkpoint(resolve_folder(self.policy), self.base) if evaluations else ""
        for results in evaluations:
            untold = results.checkpoint is None and results.harness != "spatialvla"
            if results.checkpoint != digest and not untold:  # other harnesses do not know the weights
                raise InputError(
                    f"The results on {results.suite} are of {results.policy}, checkpoint "
                    f"{short_hash(results) or 'not told'}, and {self.policy} is {digest[:12]}; --results takes those "
                    "of the policy that is exported."
                )
        return evaluations

    def _write_card(self, evaluations: Sequence[Results]) -> None:
        from spatialvla.common.files import replacing
        from spatialvla.evaluation.report.model_card import CardFacts, model_card
        from spatialvla.model.folders import is_run
        from spatialvla.model.hub import is_hub_id
        from spatialvla.model.weights import count_numbers
        from spatialvla.processor import Processor
        from spatialvla.training.config_file import kept_config

        processor, source = Processor.from_pretrained(self.out), Path(self.policy).expanduser()
        run = kept_config(source) if is_run(source) else None
        facts = CardFacts(
            name=self.name or self.push or self.out.name,
            license=self.license,
            base=None if run is None or run.policy is None else _told(run.policy),
            parameters=count_numbers(self.out),
            chunk=processor.action_chunk_size,
            cameras=processor.camera_names,
            state=processor.state_names,
            datasets={key: processor.action_units(key) for key in processor.statistics},
            hub_datasets=[] if run is None else [d.path for d in run.datasets if is_hub_id(d.path)],
            training={} if run is None else _training(run),
        )
        text = model_card(facts, evaluations)
        with replacing(self.out / "README.md") as partial:
            partial.write_text(text, encoding="utf-8")


def _told(name: str) -> str:
    """A name as others may read it: where a folder lies on this machine is nobody's business."""
    from spatialvla.model.folders import MODEL

    path = Path(name)
    if not path.is_absolute():
        return name
    return path.parent.name if path.name == MODEL else path.name


def _training(run: TrainConfig) -> dict[str, str]:
    """What a run was made of, in words."""
    lengths = {"steps": run.steps, "epochs": run.epochs, "minutes": run.minutes}
    return {
        "datasets": ", ".join(dataset.key or _told(dataset.path) for dataset in run.datasets),
        "mode": run.mode,
        "length": ", ".join(f"{value:g} {name}" for name, value in lengths.items() if value is not None),
        "batch size": str(run.batch_size),
        "learning rate": f"{run.learning_rate:g}, {run.schedule}",
        "attention mask": run.mask,
        "depth": run.depth,
        "seed": str(run.seed),
    }
