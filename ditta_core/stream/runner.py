"""Where adaptations run."""

from __future__ import annotations

from typing import Protocol

from ditta_core.adaptation.job import AdaptationJob, AdaptationProgress, AdaptationResult
from ditta_core.adaptation.run import run_job


class AdaptationRunner(Protocol):
    """Runs adaptations somewhere, one at a time."""

    def submit(self, job: AdaptationJob) -> None:
        """Start a job; one in flight is cancelled first."""

    def poll(self) -> AdaptationProgress | AdaptationResult | None:
        """The newest news without waiting, or None; a result is given exactly once."""

    def cancel(self) -> None:
        """Give up the job in flight; its result is never given."""

    def close(self) -> None:
        """Free everything."""


class InlineRunner:
    """Runs the job inside ``submit``: for evaluation, where the next frame should see the adapted model."""

    def __init__(self) -> None:
        self.result: AdaptationResult | None = None

    def submit(self, job: AdaptationJob) -> None:
        self.result = run_job(job)

    def poll(self) -> AdaptationResult | None:
        result, self.result = self.result, None
        return result

    def cancel(self) -> None:
        self.result = None

    def close(self) -> None:
        self.result = None
