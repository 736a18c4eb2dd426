"""Every check of the contract sees the mistake that it is for, and lets through what is right."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clipfit_cli import testing
from clipfit_cli.methods.base import MethodInfo
from tests.methods.nearly_right import (
    BITFIT,
    AlwaysExact,
    AlwaysTries,
    AsksForGradients,
    AttachedTerm,
    Averages,
    AveragesInSecret,
    ChangedByTests,
    Chooses,
    ChoosesAndForgets,
    ChoosesWithoutNumbers,
    DoubleParameter,
    DriftsAlways,
    FixedOrder,
    GlobalNoise,
    GoesBack,
    HalfLogits,
    HalfLoss,
    InPlace,
    LastClassifierWins,
    LastTwo,
    ListSettings,
    LivesOnTheClock,
    LivingState,
    LoadsAnything,
    LoadsBeforeItLooks,
    LooksAhead,
    MergesNothing,
    NoiseOfABatch,
    NoiseOfAPart,
    OneTemplate,
    RaggedTries,
    RandomStart,
    Reads,
    Refuses,
    SavesNoStatistics,
    SeesTheBatch,
    SilentChange,
    SumOfLosses,
    TellsNothing,
    TellsTooMuch,
    TooFewClasses,
    TooSlow,
    TupleSettings,
    UnusedParameter,
    bitfit_as,
    of_shots,
    other_on_meta,
    refusing,
    told,
)

CHECK_OF = {check.__name__.removeprefix("check_"): check for check in testing.CHECKS}
MISTAKES: list[tuple[str, MethodInfo, str]] = [
    ("words", replace(BITFIT, name="Bit Fit"), "is not in letters and dashes"),
    ("words", replace(BITFIT, summary="biases"), "say next to nothing"),
    ("words", replace(BITFIT, family="words"), "expected one of"),  # type: ignore[arg-type]
    ("words", replace(BITFIT, family="none"), "but not both"),
    ("settings", replace(BITFIT, settings=ListSettings), r"words=\['a'\], its default, is read as"),
    ("settings", replace(BITFIT, settings=TupleSettings), "a record cannot hold"),
    ("conditions", of_shots(lambda shots: {"batch_size": (shots or 2) - 1}), "batch_size must be at least 1"),
    ("conditions", of_shots(lambda shots: {"steps": 3 if shots else 0}), "it has other stages"),
    ("conditions", replace(BITFIT, grid=lambda *_: [{"lr": -1.0}]), "lr must be above 0"),
    ("conditions", replace(BITFIT, templates=lambda dataset: (dataset,)), "exactly one {}"),
    ("described", told(lambda found: found[:-1]), "it describes .* numbers, trains"),
    ("described", told(lambda found: [*found, found[0]._replace(name="x")]), "its state has nothing there"),
    ("described", told(lambda found: [found[0]._replace(shape=(5, 5)), *found[1:]]), r"\(5, 5\), its state has"),
    ("described", replace(BITFIT, describe=other_on_meta), "something else on the meta device"),
    ("described", replace(BITFIT, recipe=lambda *_: ()), "it learns nothing, but has numbers"),
    ("selection", replace(BITFIT, grid=lambda *_: [{"lr": 0.1}]), "has a grid, but never selects"),
    ("selection", replace(BITFIT, selects="tune"), "neither a grid nor anything"),
    ("selection", bitfit_as(LooksAhead), "all .* images are looked at"),
    ("selection", bitfit_as(Chooses), "it tries and chooses, but never selects"),
    ("selection", bitfit_as(ChoosesAndForgets, selects="tune"), "logits of what was chosen, loaded differ"),
    ("selection", bitfit_as(ChoosesWithoutNumbers, selects="tune"), "not in finite numbers"),
    ("selection", bitfit_as(RaggedTries, selects="tune"), "do not go together"),
    ("selection", bitfit_as(AlwaysTries, selects="tune"), "nothing is to be selected"),
    ("logits", bitfit_as(TooFewClasses), r"are \(7, 2\), expected \(7, 3\)"),
    ("logits", bitfit_as(HalfLogits), "expected float32"),
    ("logits", bitfit_as(AsksForGradients), "ask for gradients"),
    ("logits", bitfit_as(SeesTheBatch), "one image alone differ"),
    ("logits", bitfit_as(FixedOrder), "another order differ"),
    ("logits", bitfit_as(LastClassifierWins), "after another classifier was made differ"),
    ("zero_shot", replace(BITFIT, starts_at_zero_shot=False), "are the zero-shot ones"),
    ("zero_shot", bitfit_as(RandomStart), "are not the zero-shot ones"),
    ("zero_shot", bitfit_as(OneTemplate), "are not the zero-shot ones"),
    ("other_classes", replace(BITFIT, new_classes=False), "which new_classes denies"),
    ("other_classes", bitfit_as(Refuses), "which new_classes does not say"),
    ("other_classes", bitfit_as(LastTwo), "for 5 other classes"),
    ("state", bitfit_as(RandomStart), "logits of the state, loaded differ"),
    ("state", bitfit_as(LivingState), "after its state was given differ"),
    ("state", bitfit_as(TooSlow), "training does not move its logits"),
    ("foreign_state", bitfit_as(LoadsAnything), "it loads one tensor too many"),
    ("foreign_state", bitfit_as(LoadsBeforeItLooks), "after one tensor too many was refused: its .* differ"),
    ("merged", bitfit_as(MergesNothing), "logits of the merged model differ"),
    ("bundle", bitfit_as(InPlace), "visual.proj of the pristine model has changed"),
    ("frozen", bitfit_as(SilentChange), "visual.class_embedding has changed and is not in its state"),
    ("frozen", bitfit_as(GoesBack), "ln_final.bias does not train"),
    ("parameters", bitfit_as(UnusedParameter), "does not reach every parameter"),
    ("parameters", bitfit_as(DoubleParameter), "is not float32"),
    ("loss_falls", bitfit_as(TooSlow), "only"),
    ("seed", bitfit_as(GlobalNoise), "of the same training: .* differ"),
    ("seed", bitfit_as(ChangedByTests), "tested meanwhile: .* differ"),
    ("micro_batches", bitfit_as(NoiseOfAPart), "of a step in micro-batches differ"),
    ("micro_batches", bitfit_as(SumOfLosses), "of a step in micro-batches differ"),
    ("half_precision", bitfit_as(HalfLoss), "its loss is .*bfloat16"),
    ("half_precision", bitfit_as(AttachedTerm), "not detached"),
    ("half_precision", bitfit_as(AlwaysExact), "does not run in the precision"),
    ("host_reads", bitfit_as(Reads), "waits for the device in .*_local_scalar_dense"),
    ("towers", replace(BITFIT, describe=refusing), "but is attached to it"),
    ("batch_norm", bitfit_as(TellsNothing), "bn=train it tells of 0 buffers"),
    ("batch_norm", bitfit_as(SavesNoStatistics), "drifts and is not in its state"),
    ("batch_norm", bitfit_as(DriftsAlways), "bn=eval, visual.bn1.running_mean drifts"),
    ("batch_norm", bitfit_as(TellsTooMuch), "its loss moves visual.attnpool.positional_embedding, or"),
    ("resume", bitfit_as(AveragesInSecret), "the state of a training that was stopped behind step .* differ"),
    ("resume", bitfit_as(LivesOnTheClock), "the state of a training that was stopped behind step .* differ"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "info", "message"), MISTAKES, ids=lambda one: one if isinstance(one, str) else "")
def test_a_mistake_is_seen(name: str, info: MethodInfo, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        CHECK_OF[name](info)


def test_every_check_has_its_mistake() -> None:
    assert {name for name, _, _ in MISTAKES} == CHECK_OF.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("info", "names"),
    [
        (bitfit_as(NoiseOfABatch), ("seed", "micro_batches", "half_precision", "host_reads")),
        (bitfit_as(Chooses, selects="tune"), ("selection", "state", "foreign_state", "described")),
        (bitfit_as(Averages), ("resume", "seed", "described")),
    ],
)
def test_what_is_right_is_let_through(info: MethodInfo, names: tuple[str, ...]) -> None:
    for name in names:
        CHECK_OF[name](info)
