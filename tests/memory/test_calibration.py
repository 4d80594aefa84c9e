from hypothesis import given
from hypothesis import strategies as st

from nas.memory.calibration import PeakCalibration

MIB = 2**20
PAIRS = st.lists(st.tuples(st.integers(1, 10**10), st.integers(1, 10**10)), max_size=40)


@given(pairs=PAIRS, data=st.data())
def test_no_measured_peak_would_have_been_predicted_too_low_in_whatever_order(
    pairs: list[tuple[int, int]], data: st.DataObject
) -> None:
    correction = PeakCalibration(data.draw(st.permutations(pairs)))
    assert all(predicted + correction.correction_bytes >= measured for predicted, measured in pairs)
    assert correction.summary() == PeakCalibration(pairs).summary()


def test_one_measurement_above_its_prediction_raises_all_later_ones() -> None:
    correction = PeakCalibration([(100, 90)] * 50)
    correction.observe(100, 130)
    assert correction.correction_bytes == 30


def test_predictions_are_lowered_only_when_many_measurements_agree() -> None:
    correction = PeakCalibration([(100, 60), (200, 170)])
    assert correction.correction_bytes == 0
    for _ in range(30):
        correction.observe(100, 60)
    assert correction.correction_bytes == -30
    correction.observe(100, 100)
    assert correction.correction_bytes == 0


def test_the_report_says_how_good_predictions_were() -> None:
    assert PeakCalibration().summary().startswith("predicted peaks: no training to compare them with")
    text = PeakCalibration([(90 * MIB, 100 * MIB), (120 * MIB, 100 * MIB), (100 * MIB, 100 * MIB)]).summary()
    assert text == (
        "predicted peaks: 3 measured, median error 11.1%, largest under-prediction 10.00 MiB, later predictions "
        "corrected by +10.00 MiB"
    )
