"""Where adaptations run."""

from __future__ import annotations

from typing import Protocol

from ditta_core.adaptation.job import AdaptationJob, AdaptationResult, News
from ditta_core.domain.warmup_job import run_job


class AdaptationRunner(Protocol):
    """Runs adaptations somewhere, one at a time."""

    def expect(self) -> None:
        """A job will be submitted soon, unless something comes in between. Does not wait."""

    def submit(self, job: AdaptationJob) -> None:
        """Start a job; a running one is cancelled first."""

    def poll(self) -> News | None:
        """A result, or else the newest progress, without waiting; None where there is neither.

        Every result comes once and in order: none or one that is not final, then the final one.
        """

    def cancel(self) -> None:
        """Cancel the running job; its result never comes."""

    def close(self) -> None:
        """Free everything."""


class InlineRunner:
    """Runs the job inside ``submit``, so that the next frame sees the adapted model: for scripts and evaluations."""

    def __init__(self) -> None:
        self._result: AdaptationResult | None = None

    def expect(self) -> None:
        """Nothing has to be started for it."""

    def submit(self, job: AdaptationJob) -> None:
        self._result = run_job(job)

    def poll(self) -> AdaptationResult | None:
        result, self._result = self._result, None
        return result

    def cancel(self) -> None:
        self._result = None

    close = cancel
