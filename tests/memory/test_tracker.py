"""The tracker of real tensors."""

import torch

from nas.memory.tracker import PeakTracker


def test_tracker_follows_allocations_and_releases() -> None:
    with PeakTracker() as tracker:
        first = torch.ones(1000)
        view = first[:10]
        del first
        assert tracker.live_bytes == 4000  # the view keeps the storage alive
        del view
        assert tracker.live_bytes == 0
        torch.ones(500)
    assert tracker.peak_bytes == 4000
