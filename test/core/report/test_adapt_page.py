"""The page of an adaptation to recorded drives."""

from __future__ import annotations

from unittest import mock

from matplotlib.axes import Axes

from ditta_core.domain.driver import OfflineReport
from ditta_core.report.adapt_page import _losses_plot


def test_losses_that_begin_later_are_drawn_too() -> None:
    losses = tuple((step, {"source": 1.0, **({"labels": 2.0} if step > 4 else {})}) for step in range(1, 9))
    report = OfflineReport(
        recipe="FDA",
        reason="adapted",
        refused="",
        frames=20,
        held_out=2,
        steps=8,
        seconds=1.0,
        losses=losses,
        labelled=(),
        thresholds=(),
        confirmed=None,
        moving=False,
        statistics_share=0.3,
        trained="all",
        deployed_share=1.0,
    )
    with mock.patch.object(Axes, "plot", autospec=True, side_effect=Axes.plot) as plot:
        assert _losses_plot(report).startswith(b"\x89PNG")
    assert [call.kwargs["label"] for call in plot.call_args_list] == ["source", "labels"]
