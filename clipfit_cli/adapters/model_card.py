"""The README.md of a shared adapter or model: what the hub reads on top, what people read below."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipfit_cli.adapters.run_summary import Summary, Tested
from clipfit_cli.data import catalog
from clipfit_cli.engine.checkpoint import UNPUBLISHED, AdapterCard
from clipfit_cli.errors import counted, printable, shortened
from clipfit_cli.models.hub import SHARED_PREFIX
from clipfit_cli.reports.markdown import fenced, items
from clipfit_cli.reports.tables import NUM_SEEDS, Column, Table, to_markdown, to_markdown_paragraph, to_markdown_text
from clipfit_cli.results.summary import harmonic_mean, mean, population_std

README_FILE = "README.md"
_MOST_CLASSES = 100
_COLUMNS = (
    Column("dataset", "tested on", "prose"),
    Column("subset", "classes"),
    Column("num_classes", "of them", "int"),
    Column("num_images", "images", "int"),
    Column("own_pct", "this seed (%)", "pct"),
    Column("accuracy_pct", "accuracy (%)", "pct", spread="accuracy_std_pct"),
    Column("accuracy_std_pct", "±", "pct", terminal=False),
    Column("seeds", "seeds"),
    Column("how", "how", "prose"),
)


@dataclass(frozen=True)
class ModelCard:
    """What stands on the page of a repository.

    Attributes:
        repository: ``ORG/NAME``.
        card: Of the adapter, as it is shared.
        summary: Of its run.
        base_model: Repository of the model beneath; None where none is known.
        licence: As the hub names it; None = the user has named none.
        transformers_class: Of a merged model of transformers'; None = it is open_clip's, or an adapter.
    """

    repository: str
    card: AdapterCard
    summary: Summary
    base_model: str | None = None
    licence: str | None = None
    transformers_class: str | None = None

    def to_markdown(self) -> str:
        """Return the text of the README.md."""
        name = to_markdown_text(self.repository.rpartition("/")[2])
        parts = [f"---\n{self._front_matter()}\n---", f"# {name}", self._what(), "## Use", *self._use()]
        if self.summary.results:
            parts += ["## Results", to_markdown(_results(self.summary.results, self.card.seed)), *self._harmonic()]
        parts += ["## Training", items(f"{name}: {text}" for name, text in self._facts().items())]
        if self.summary.commands:
            parts += ["## Make it again", fenced(self.summary.commands)]
        parts += ["## Classes", to_markdown_paragraph(_listed(self.card.class_names))]
        return "\n\n".join(part.strip("\n") for part in parts) + "\n"

    @property
    def _is_model(self) -> bool:
        return self.summary.kind == "model"

    @property
    def _library(self) -> str:
        if self.transformers_class:
            return "transformers"
        return "open_clip" if self._is_model else "clipfit"

    def _front_matter(self) -> str:
        """Return the YAML that the hub reads; every text is quoted by the library where it has to be."""
        from huggingface_hub import ModelCardData

        card, training = self.card, self.summary.training
        trained_on = training.hub_dataset.partition(":")[0] if training else ""
        if not trained_on and catalog.is_known(card.dataset):
            trained_on = card.dataset
        return ModelCardData(
            license=self.licence,
            library_name=self._library,
            pipeline_tag="zero-shot-image-classification",
            tags=["clip", "clipfit", "few-shot", *([] if self._is_model else ["adapter"]), _word(card.method)],
            base_model=self.base_model,
            base_model_relation=("finetune" if self._is_model else "adapter") if self.base_model else None,
            datasets=[trained_on] if trained_on else None,
            metrics=["accuracy"] if self.summary.results else None,
            model_name=self.repository.rpartition("/")[2],
            eval_results=_eval_results(self.summary.results) or None,
        ).to_yaml()

    def _what(self) -> str:
        card = self.card
        kind = "A CLIP model with what was trained in its weights" if self._is_model else "An adapter for CLIP"
        return to_markdown_paragraph(
            f"{kind}, made by clipfit {self.summary.clipfit}: {card.method} on {_model(card)}, trained on "
            f"{shortened(card.dataset)} ({_shots(card)}). It trains {counted(card.trainable_parameters, 'number')}."
        )

    def _use(self) -> list[str]:
        """Return how it is used, and what one needs for it."""
        where = f"{SHARED_PREFIX}{self.repository}"
        if self.transformers_class:
            lines = [
                f"from transformers import AutoProcessor, {self.transformers_class}",
                "",
                f'model = {self.transformers_class}.from_pretrained("{self.repository}")',
                f'processor = AutoProcessor.from_pretrained("{self.repository}")',
            ]
            return ["\n".join(["```python", *lines, "```"])]
        if self._is_model:
            lines = [
                "import open_clip",
                "",
                f'model, _, preprocess = open_clip.create_model_and_transforms("hf-hub:{self.repository}")',
                f'tokenizer = open_clip.get_tokenizer("hf-hub:{self.repository}")',
            ]
            return ["\n".join(["```python", *lines, "```"])]
        needs = self.card.pretrained == UNPUBLISHED
        more = " --pretrained PATH" if needs else ""
        argument = ', pretrained="PATH"' if needs else ""
        lines = [
            "import clipfit_cli",
            "",
            f'classifier = clipfit_cli.load_adapter("{where}"{argument})',
            'classifier.classify(["photo.jpg"], top=3)',
        ]
        found = [
            fenced([f"clipfit predict --adapter {where}{more} photo.jpg"]),
            "\n".join(["```python", *lines, "```"]),
        ]
        if needs:
            digest = self.card.weights_sha256
            found.append(f"It was made for weights that are not published: those with the sha256 `{_word(digest)}`.")
        return found

    def _harmonic(self) -> list[str]:
        """Return the line on base and new classes together, where both were tested by the same seeds."""
        found = {
            one.subset: one for one in self.summary.results if one.dataset == self.card.dataset and _is_planned(one)
        }
        if not {"base", "new"} <= found.keys() or found["base"].accuracy_pct.keys() != found["new"].accuracy_pct.keys():
            return []
        base, new = (mean(list(found[subset].accuracy_pct.values())) for subset in ("base", "new"))
        return [f"Harmonic mean of base and new classes: {harmonic_mean(base, new):.2f} %."]

    def _facts(self) -> dict[str, str]:
        """Return what it takes to judge the results: name -> text."""
        card, training = self.card, self.summary.training
        found = {
            "method": card.method,
            "settings": _pairs(card.settings),
            "model": f"{_model(card)}, {card.activation}, weights sha256 {card.weights_sha256}",
            "data": f"{card.dataset}, {_shots(card)}, seed {card.seed}",
            "prompts": _listed(card.prompt_templates),
            "run": self.summary.run_key,
        }
        if training:
            for place, stage in enumerate(training.stages, 1):
                shown = ("optimiser", "lr", "epochs" if stage.steps is None else "steps", "batch_size")
                found[f"stage {place}"] = _pairs({name: getattr(stage, name) for name in shown})
            found |= {
                "package": training.origin or "",
                "images": f"{training.num_train_images:,} of {training.num_train_classes:,} classes",
                "selected on": training.selected_on,
                "chosen": _pairs(training.chosen),
                "precision": f"{training.precision}, on {training.device}",
                "split": f"sha256 {training.split_sha256}",
                "split file": f"sha256 {training.split_file_sha256}" if training.split_file_sha256 else "",
                "versions": _pairs(training.versions),
            }
        found["licence"] = self.licence or "none is named"
        return {name: shortened(text) for name, text in found.items() if text}


def _results(results: Sequence[Tested], seed: int) -> Table:
    rows = [
        {
            "dataset": shortened(one.dataset),
            "subset": one.subset,
            "num_classes": one.num_classes,
            "num_images": one.num_images,
            "own_pct": one.accuracy_pct.get(seed),
            "accuracy_pct": mean(list(one.accuracy_pct.values())),
            "accuracy_std_pct": population_std(list(one.accuracy_pct.values())),
            "seeds": ", ".join(map(str, one.accuracy_pct)),
            "how": _how(one),
            NUM_SEEDS: len(one.accuracy_pct),
        }
        for one in results
    ]
    return Table(
        "",
        _COLUMNS,
        tuple(rows),
        ("accuracy: mean and standard deviation (divisor n) over the seeds; run.json has each of them.",),
    )


def _eval_results(results: Sequence[Tested]) -> list[Any]:
    """Return what the hub shows beside the page, without changed images and parts of what was learnt."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=_word(one.dataset),
            dataset_name=_plain(one.dataset),
            dataset_config=one.subset,
            dataset_split="test",
            dataset_args={"split_sha256": one.split_sha256},
            metric_type="accuracy",
            metric_name=f"accuracy (%), mean of {counted(len(one.accuracy_pct), 'seed')}",
            metric_value=round(mean(list(one.accuracy_pct.values())), 4),
            metric_args={
                "seeds": list(one.accuracy_pct),
                "std": round(population_std(list(one.accuracy_pct.values())), 4),
                "num_images": one.num_images,
                "precision": one.precision,
            },
        )
        for one in results
        if _is_planned(one)
    ]


def _is_planned(one: Tested) -> bool:
    """Whether a protocol planned it, of images as they are."""
    return (one.transform, one.interpolation, one.is_planned) == ("identity", 1.0, True)


def _how(one: Tested) -> str:
    words = [one.precision]
    words += [] if one.transform == "identity" else [one.transform]
    words += [] if one.interpolation == 1.0 else [f"{one.interpolation:g} of what was learnt"]
    words += [one.difference_from_plan] if one.difference_from_plan else []
    return ", ".join(words)


def _model(card: AdapterCard) -> str:
    if card.backbone == card.pretrained:
        return "a model that is not published" if card.backbone == UNPUBLISHED else card.backbone
    return f"{card.backbone} / {card.pretrained}"


def _shots(card: AdapterCard) -> str:
    shots = "all images" if card.shots is None else counted(card.shots, "image") + " a class"
    return f"{card.subset} classes, {shots}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _listed(names: Sequence[str]) -> str:
    """Return the first of many names, each cut to a length that a page bears."""
    shown = ", ".join(shortened(name) for name in names[:_MOST_CLASSES])
    return f"{shown} and {len(names) - _MOST_CLASSES:,} more" if len(names) > _MOST_CLASSES else shown


def _plain(text: str) -> str:
    return shortened(" ".join(printable(text).split()))


def _word(text: str) -> str:
    """Return a text as one word of letters, digits, dots, dashes and underscores, as the hub takes them."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:96] or "unnamed"
