"""Tip-Adapter, Tip-Adapter-F and ProLIP against what their references gave."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor

from clipfit_cli import methods
from clipfit_cli.config import Conditions, Recipe, Tap
from clipfit_cli.engine.train import train
from clipfit_cli.methods.base import Adapted
from clipfit_cli.methods.tip_adapter_f import TipAdapterFSettings
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import tapped
from tests.conftest import GOLDEN, small_bundle

CPU = torch.device("cpu")
NAMES = [f"class {i}" for i in range(10)]
TEMPLATES = ("a {}",)
SMALL_NAMES = ["cat", "polka-dotted thing", "red_tractor"]


@dataclass
class GivenBatches:
    """A `Source` of given batches of images (steps, batch, 3, size, size) and labels, taken over and over."""

    model: torch.nn.Module
    images: Tensor
    labels: Tensor
    steps_per_epoch: int

    def batch(self, tap: Tap, step: int) -> tuple[Tensor, Tensor]:
        return self._tapped(tap, self.images[step % len(self.images)]), self.labels[step % len(self.images)]

    def everything(self, tap: Tap) -> tuple[Tensor, Tensor]:
        return self._tapped(tap, self.images.flatten(0, 1)), self.labels.flatten()

    def _tapped(self, tap: Tap, images: Tensor) -> Tensor:
        with torch.no_grad():
            return tapped(self.model, images, tap)


def golden_of(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(GOLDEN / name, weights_only=True)
    return loaded


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return golden_of("clipfit_tiny_vit.pt")


@pytest.fixture
def bundle(golden: dict[str, Any]) -> ClipBundle:
    """The golden model, which reads the golden tokens whatever the class names are."""
    model = CLIP(
        embed_dim=32,
        vision_cfg=CLIPVisionCfg(image_size=32, patch_size=8, width=64, layers=2, head_width=64),
        text_cfg=CLIPTextCfg(context_length=16, vocab_size=128, width=64, heads=1, layers=2),
        quick_gelu=True,
    )
    model.load_state_dict(golden["initial_state_dict"])
    return replace(small_bundle(model), tokenizer=lambda _: golden["tokens"].long(), count_tokens=lambda _: 3)


@pytest.fixture
def source(bundle: ClipBundle, golden: dict[str, Any]) -> GivenBatches:
    return GivenBatches(bundle.model, golden["images"], golden["labels"].long(), 5)


def attach(name: str, bundle: ClipBundle, **settings: Any) -> Any:
    info = methods.get(name)
    return info.attach(bundle, NAMES, TEMPLATES, info.settings(**settings))


def fit(adapted: Adapted, recipe: Recipe, source: GivenBatches, *, stage: int = 0, val: Any = None) -> Any:
    return train(adapted, recipe, source, seed=1, precision="fp32", device=CPU, stage=stage, val=val)


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def test_tip_adapter_is_the_reference(bundle: ClipBundle, source: GivenBatches) -> None:
    run = golden_of("rivals/tip_adapter_f_tiny.pt")
    adapted = attach("tip-adapter", bundle, alpha=run["alpha"], beta=run["beta"])
    (cache,) = methods.get("tip-adapter").recipe(Conditions(), None)
    assert fit(adapted, cache, source).steps == 0
    state = adapted.state()
    close(state["keys"], run["cache_keys"].T, 1e-6)
    assert torch.equal(torch.nn.functional.one_hot(state["labels"], 10), run["cache_values"].long())
    logits = adapted.classifier(NAMES, TEMPLATES)
    batch = tapped(bundle.model, source.images[0], "projected")
    close(logits(batch), run["training_free_logits_batch0"], 1e-4)


def test_five_steps_of_tip_adapter_f(bundle: ClipBundle, source: GivenBatches) -> None:
    run = golden_of("rivals/tip_adapter_f_tiny.pt")
    adapted = attach("tip-adapter-f", bundle, alpha=run["alpha"], beta=run["beta"])
    cache, steps = methods.get("tip-adapter-f").recipe(Conditions(), TipAdapterFSettings())
    assert fit(adapted, cache, source).losses == ()
    close(adapted.state()["keys"], run["initial"]["adapter.weight"], 1e-6)
    training = fit(adapted, replace(steps, epochs=1), source, stage=1)
    assert training.rates == pytest.approx([step["lr"] for step in run["steps"]], abs=1e-12)
    assert training.losses == pytest.approx([step["loss"] for step in run["steps"]], abs=5e-5)
    close(adapted.state()["keys"], run["final"]["adapter.weight"], 1e-6)
    batch = tapped(bundle.model, source.images[0], "projected")
    close(adapted.classifier(NAMES, TEMPLATES)(batch), run["final_eval_logits_batch0"], 1e-4)


def test_first_gradients_of_tip_adapter_f(bundle: ClipBundle, source: GivenBatches) -> None:
    run = golden_of("rivals/tip_adapter_f_tiny.pt")
    adapted = attach("tip-adapter-f", bundle, alpha=run["alpha"], beta=run["beta"])
    assert adapted.parameters() == []
    adapted.prepare(source, None)
    adapted.begin(1)
    loss, terms = adapted.loss(*source.batch("projected", 0))
    torch.autograd.backward(loss)
    (group,) = adapted.parameters()
    close(group.parameters[0].grad, run["grads_step1"]["adapter.weight"], 1e-5)
    assert terms.keys() == {"cross_entropy"} and not terms["cross_entropy"].requires_grad


@pytest.mark.parametrize(("part", "atol"), [(None, 1e-7), ("run_lr1e-2_N1", 1e-5)])
def test_five_steps_of_prolip(part: str | None, atol: float, bundle: ClipBundle, source: GivenBatches) -> None:
    run = golden_of("rivals/prolip_tiny.pt")
    run = run[part] if part else run
    info, conditions = methods.get("prolip"), Conditions(shots=run["shots"])
    adapted = attach("prolip", bundle, **info.presets(conditions))
    order = run["view_order"]
    views = GivenBatches(bundle.model, source.images[order], run["labels"].expand(5, -1), 1)
    close(tapped(bundle.model, source.images[0], "unprojected"), run["pre_features_view0"], 1e-5)
    (recipe,) = info.recipe(conditions, info.settings())
    training = fit(adapted, replace(recipe, steps=5, lr=run["lr"]), views)
    assert training.rates == pytest.approx([step["lr"] for step in run["steps"]], abs=1e-12)
    assert training.losses == pytest.approx([step["loss"] for step in run["steps"]], abs=5e-5)
    close(adapted.state()["visual.proj"], run["final"]["visual.proj"], atol)
    batch = tapped(bundle.model, source.images[0], "unprojected")
    close(adapted.classifier(NAMES, TEMPLATES)(batch), run["final_eval_logits_batch0"], 1e-4)


def test_first_gradients_of_prolip(bundle: ClipBundle, source: GivenBatches) -> None:
    run = golden_of("rivals/prolip_tiny.pt")
    adapted = attach("prolip", bundle)
    inputs = tapped(bundle.model, source.images[1], "unprojected")
    loss, terms = adapted.loss(inputs, run["labels"])
    torch.autograd.backward(loss)
    close(adapted.parameters()[0].parameters[0].grad, run["grads_step1"]["visual.proj"], 1e-4)
    assert float(terms["cross_entropy"]) == pytest.approx(run["steps"][0]["ce"], abs=5e-5)
    assert float(terms["penalty"]) == 0


def test_where_nothing_is_right_the_preset_stays(bundle: ClipBundle, source: GivenBatches) -> None:
    """The reference found 0 and 0 here."""
    run = golden_of("rivals/tip_adapter_f_tiny.pt")
    assert run["searched_beta_alpha_on_batch0"] == [0, 0]
    adapted = attach("tip-adapter-f", bundle, alpha=2.5, beta=1.5)
    adapted.load({**adapted.state(), "keys": run["final"]["adapter.weight"], "labels": run["cache_values"].argmax(1)})
    val = GivenBatches(bundle.model, source.images[:1], source.labels[:1], 1)
    assert adapted.calibrate(val) == {"alpha": 2.5, "beta": 1.5}
    assert set(adapted.tried()["accuracy_pct"]) == {0.0}
