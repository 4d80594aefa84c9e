"""Predicted peaks against the peaks of real steps, to the byte."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.common.devices import CPU
from nas.config.data_schema import FeaturesConfig
from nas.config.training_schema import LearningRatesConfig, RecipeConfig
from nas.memory.prediction import MemoryModel, TraceCache, micro_batch_counts
from nas.memory.step_tracing import TaskShapes
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.space import Architecture, SearchSpace
from tests.support.tiny_memory import IMAGE, RECIPE, SPACE, TEXT, memory_model, real_model, real_peak

ARCHITECTURES = [
    PMFArchitecture(2, 1, 0, 0, 4),
    PMFArchitecture(1, 4, 4, 4, 16),
    PMFArchitecture(0, 2, 0, 3, 64),
    PMFArchitecture(0, 16, 8, 8, 16),
    PMFArchitecture(1, ((1, 16), (4, 2)), ((0, 2), (3, 0)), ((2, 0), (0, 1)), ((16, 4), (2, 64))),
    PMFArchitecture(2, 1, 0, 2, 4, text_readout=1),
    PMFArchitecture(1, 4, 4, 4, 16, image_readout=1, text_readout=1),
]
MEMORY = memory_model()
LOSSES = 16
"""Upper bound of the bytes of the losses of earlier micro-batches, 4 each, which a prediction omits."""


def traced_step_bytes(memory: MemoryModel, architecture: Architecture, micro_batches: int = 1) -> int:
    """Predict the bytes of a step with a budget equal to the interpolated peak, so that the step is traced."""
    budget_bytes = memory.predict(architecture, micro_batches=micro_batches).peak_bytes
    return memory.predict(architecture, micro_batches=micro_batches, budget_bytes=budget_bytes).step_bytes


LEFT_OUT = [PMFArchitecture(1, 0, 2, 2, 8), PMFArchitecture(0, 2, 1, 0, 0)]
"""Without the message, and without the mapping."""


@pytest.mark.parametrize("attention", [False, True], ids=["tokens", "attention"])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *LEFT_OUT], ids=str)
def test_predicted_peak_of_a_step_is_exact_to_the_byte(architecture: Architecture, attention: bool) -> None:
    measured = real_peak(real_model(architecture), architecture, [6], attention=attention)
    memory = memory_model(attention)
    assert memory.predict(architecture).step_bytes == measured
    assert traced_step_bytes(memory, architecture) == measured


@pytest.mark.parametrize(("micro_batches", "sizes"), [(2, [3, 3]), (4, [2, 2, 1, 1])])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_predicted_peak_of_micro_batches_includes_held_gradients(
    architecture: Architecture, micro_batches: int, sizes: list[int]
) -> None:
    measured = real_peak(real_model(architecture), architecture, sizes)
    predicted = memory_model().predict(architecture, micro_batches=micro_batches).step_bytes
    assert measured - LOSSES <= predicted <= measured


@pytest.mark.parametrize(
    "architecture",
    [SPACE.largest, SPACE.smallest, PMFArchitecture(1, 2, 0, 2, 16), PMFArchitecture(2, 2, 0, 2, 16, 0, 1)],
    ids=str,
)
def test_predicted_peak_of_a_supernet_step_includes_gradients_of_the_whole_supernet(architecture: Architecture) -> None:
    supernet = real_model(SPACE.supernet)
    prediction = memory_model().predict_supernet(architecture)
    assert prediction.step_bytes == real_peak(supernet, architecture, [6])
    weights = 4 * sum(parameter.numel() for parameter in supernet.parameters())
    assert prediction.supernet_bytes == prediction.gradient_sum_bytes == weights
    assert prediction.optimizer_bytes == 2 * weights
    assert prediction.trained_bytes == 0


def test_decoding_of_pictures_is_counted_where_it_needs_more_than_a_step() -> None:
    architecture, pixels = PMFArchitecture(0, 2, 0, 3, 64), 12_000_000
    stored = memory_model()

    def decoding(largest: int, device: torch.device = CPU) -> MemoryModel:
        features = FeaturesConfig(dtype="float16", disk_bytes=2**30, attention=False, views=1, storage="none")
        task = TaskShapes((3, 32, 32), 17, 9, num_classes=5, largest_picture=largest)
        return MemoryModel(
            image_config=IMAGE,
            text_config=TEXT,
            recipe=RECIPE,
            features=features,
            space=SPACE,
            task=task,
            traces=TraceCache(device),
        )

    batch = 2 * 4 * 6 * 3 * 32 * 32  # the images of a batch, and their copy in one tensor
    memory = decoding(pixels)
    one = 2**22 + 24 * pixels
    assert memory.predict(architecture).step_bytes == batch + one
    assert memory.predict_supernet(architecture).step_bytes == batch + one
    weights = 4 * memory.parameter_count(architecture)
    assert memory.predict(architecture, micro_batches=2).step_bytes == weights + batch // 2 + one
    assert decoding(400).predict(architecture).step_bytes == batch + 2**25, "several small pictures at the same time"
    assert decoding(0).predict(architecture).step_bytes < 2**22, "a step of tiny encoders"
    assert decoding(pixels, torch.device("cuda")).predict(architecture).step_bytes < 2**22, "pictures are on the host"
    assert stored.predict(architecture).step_bytes < 2**22


@pytest.mark.parametrize("every", [20, pytest.param(3, marks=pytest.mark.long)])
def test_interpolated_peaks_all_over_the_space_equal_traced_ones(every: int) -> None:
    traces = TraceCache(is_eager=True)
    memory = memory_model(traces=traces)
    everything = [entry for entry in SPACE if isinstance(entry, PMFArchitecture)]
    chosen = [entry for entry in everything if entry.image_readout == entry.text_readout][::every]
    interpolated = {architecture: memory.predict(architecture).step_bytes for architecture in chosen}
    assert not traces.peaks, "no step of the space itself is traced"
    assert {architecture: traced_step_bytes(memory, architecture) for architecture in chosen} == interpolated


@given(
    architecture=st.builds(
        PMFArchitecture,
        fusion_layer=st.integers(0, 2),
        query_prompts=st.integers(0, 20),
        query_context_prompts=st.integers(0, 20),
        fusion_context_prompts=st.integers(0, 20),
        mapping_width=st.integers(0, 100),
        image_readout=st.integers(0, 1),
        text_readout=st.integers(0, 1),
    ),
    batch_size=st.sampled_from([1, 2, 5]),
    micro_batches=st.sampled_from([1, 3]),
    attention=st.booleans(),
)
@settings(max_examples=10, deadline=None)
@pytest.mark.long
def test_interpolated_peaks_equal_traced_ones_for_any_lengths(
    architecture: Architecture, batch_size: int, micro_batches: int, attention: bool
) -> None:
    memory = memory_model(attention, batch_size, traces=TraceCache(is_eager=True))
    interpolated = memory.predict(architecture, micro_batches=micro_batches).step_bytes
    assert traced_step_bytes(memory, architecture, micro_batches) == interpolated


def test_only_steps_near_the_budget_are_traced() -> None:
    traces, architecture = TraceCache(is_eager=True), ARCHITECTURES[1]
    memory = memory_model(traces=traces)
    prediction = memory.predict(architecture)
    memory.predict(architecture, budget_bytes=prediction.peak_bytes + prediction.step_bytes)
    assert not traces.peaks
    memory.predict(architecture, budget_bytes=prediction.peak_bytes + prediction.step_bytes // 200)
    assert len(traces.peaks) == 1


def test_first_architectures_of_a_set_are_traced_until_that_has_cost_as_much_as_its_surface() -> None:
    traces = TraceCache()
    memory = memory_model(traces=traces)
    chosen = [PMFArchitecture(1, 4, 4, 4, width) for width in range(1, 9)]
    affine = chosen[0].affine_memory()
    assert affine is not None and len(affine.steps) == 3
    predicted = [memory.predict(architecture) for architecture in chosen]
    assert len(traces.peaks) == 4 and len(traces.surfaces) == 1
    assert [memory.predict(architecture) for architecture in chosen] == predicted and len(traces.peaks) == 4
    eager = memory_model(traces=TraceCache(is_eager=True))
    assert [eager.predict(architecture) for architecture in chosen] == predicted


def test_traces_may_be_shared_by_recipes_with_equal_label_smoothing_and_precision_and_by_spaces() -> None:
    others = {
        "optimizer": "sgd",
        "learning_rates": LearningRatesConfig.of_all(0.5),
        "depth_scaling": 1.0,
        "weight_decay": 0.5,
        "momentum": 0.0,
        "schedule": "cosine",
        "warmup_fraction": 0.5,
        "clip_norm": 1.0,
        "batch_size": 5,
        "epochs": None,
        "steps": 3,
        "classifier_start": "linear",
        "class_weights": "inverse_frequency",
    }
    assert {*others, "label_smoothing", "precision"} == set(RecipeConfig.model_fields)
    recipe, traces = RECIPE.replace(**others), TraceCache()
    spaces = [SPACE, SearchSpace(PMFArchitecture, {**SPACE.choices, "mapping_width": (1, 9)})]
    for space in spaces:
        first = memory_model(space=space, traces=traces)
        shared = memory_model(recipe=recipe, space=space, traces=traces)
        own = memory_model(recipe=recipe, space=space, traces=TraceCache())
        for architecture in ARCHITECTURES[1], SPACE.smallest:
            for name in ("predict", "predict_supernet"):
                getattr(first, name)(architecture, micro_batches=2)
                assert getattr(shared, name)(architecture, micro_batches=2) == getattr(own, name)(
                    architecture, micro_batches=2
                )


def test_predictions_do_not_depend_on_earlier_predictions() -> None:
    one, other = (memory_model(traces=TraceCache()) for _ in range(2))
    architectures = list(SPACE)[::61]
    in_order = {architecture: one.predict(architecture) for architecture in architectures}
    in_reverse = {architecture: other.predict(architecture) for architecture in reversed(architectures)}
    assert in_order == in_reverse


def test_steps_are_traced_if_sizes_are_not_affine(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, architecture = memory_model(), ARCHITECTURES[1]
    expected = memory.predict(architecture)
    monkeypatch.setattr("nas.memory.prediction.PeakSurface.fit", lambda affine, trace: None)
    assert memory_model(traces=TraceCache()).predict(architecture) == expected


def test_prediction_includes_weights_and_optimizer_state() -> None:
    architecture = ARCHITECTURES[1]
    prediction = memory_model().predict(architecture)
    weights = 4 * sum(parameter.numel() for parameter in real_model(architecture).parameters())
    assert prediction.trained_bytes == weights
    assert prediction.optimizer_bytes == 2 * weights


def test_idle_worker_holds_its_process_and_the_supernet() -> None:
    memory = memory_model()
    prediction = memory.predict(ARCHITECTURES[0])
    assert memory.idle_bytes == prediction.process_bytes + prediction.supernet_bytes


def test_measured_process_replaces_the_cautious_default() -> None:
    memory = memory_model()
    before, idle = memory.predict(ARCHITECTURES[0]), memory.idle_bytes
    memory.process_bytes = 1000
    assert memory.predict(ARCHITECTURES[0]) == replace(before, process_bytes=1000)
    assert memory.idle_bytes == idle - before.process_bytes + 1000


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_every_gene_increases_the_peak(micro_batches: int) -> None:
    memory, base = memory_model(), PMFArchitecture(1, 2, 2, 2, 8)
    for predict in (memory.predict, memory.predict_supernet):
        peak = predict(base, micro_batches=micro_batches).peak_bytes
        for gene in base.gene_names():
            value = getattr(base, gene)
            larger = replace(base, **{gene: value - 1 if gene == "fusion_layer" else value * 2})
            assert predict(larger, micro_batches=micro_batches).peak_bytes >= peak
    assert memory.predict(SPACE.largest).peak_bytes > memory.predict(SPACE.smallest).peak_bytes


@given(share=st.floats(0, 1.1), architecture=st.sampled_from(ARCHITECTURES[:2]))
@settings(max_examples=15, deadline=None)
def test_smallest_number_of_micro_batches_within_the_budget_is_found(share: float, architecture: Architecture) -> None:
    peaks = {count: MEMORY.predict(architecture, micro_batches=count).peak_bytes for count in range(1, 7)}
    budget = round(peaks[6] + share * (peaks[1] - peaks[6])) - 1000
    fitting = [count for count, peak in peaks.items() if peak <= budget]
    assert MEMORY.min_micro_batches(architecture, budget) == (min(fitting) if fitting else None)
    assert MEMORY.fits_in_micro_batches(architecture, budget) == bool(fitting)


def test_micro_batch_counts_are_those_that_make_the_largest_micro_batch_smaller() -> None:
    assert micro_batch_counts(12) == (2, 3, 4, 6, 12)
    assert micro_batch_counts(1) == ()
