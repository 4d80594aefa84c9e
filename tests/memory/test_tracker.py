import torch

from nas.memory.tracker import PeakTracker


def test_the_tracker_follows_release_as_well_as_allocation() -> None:
    with PeakTracker() as tracker:
        first = torch.ones(1000)
        view = first[:10]
        del first
        assert tracker.live_bytes == 4000  # the view holds the storage
        del view
        assert tracker.live_bytes == 0
        torch.ones(500)
    assert tracker.peak_bytes == 4000
