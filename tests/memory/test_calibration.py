"""Corrections of predicted peaks, and their line in the report."""

from hypothesis import given
from hypothesis import strategies as st

from nas.memory.calibration import PeakCalibration

MIB = 2**20
PAIRS = st.lists(st.tuples(st.integers(1, 10**10), st.integers(1, 10**10)), max_size=40)


@given(pairs=PAIRS, data=st.data())
def test_corrected_predictions_cover_all_observed_peaks_in_any_order(
    pairs: list[tuple[int, int]], data: st.DataObject
) -> None:
    calibration = PeakCalibration(data.draw(st.permutations(pairs)))
    assert all(predicted + calibration.correction_bytes >= measured for predicted, measured in pairs)
    assert calibration.summary() == PeakCalibration(pairs).summary()


def test_one_measurement_above_its_prediction_raises_later_predictions() -> None:
    calibration = PeakCalibration([(100, 90)] * 50)
    calibration.observe(100, 130)
    assert calibration.correction_bytes == 30


def test_predictions_are_lowered_only_after_many_measurements() -> None:
    calibration = PeakCalibration([(100, 60), (200, 170)])
    assert calibration.correction_bytes == 0
    for _ in range(30):
        calibration.observe(100, 60)
    assert calibration.correction_bytes == -30
    calibration.observe(100, 100)
    assert calibration.correction_bytes == 0


def test_summary_reports_the_accuracy_of_predictions() -> None:
    text = PeakCalibration([(90 * MIB, 100 * MIB), (120 * MIB, 100 * MIB), (100 * MIB, 100 * MIB)]).summary()
    assert text == (
        "predicted memory: median error 11.1% over 3 trainings, largest underestimate 10.00 MiB; correction +10.00 MiB"
    )


def test_summary_is_empty_without_measurements() -> None:
    assert PeakCalibration().summary() is None
