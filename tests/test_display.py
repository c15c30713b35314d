"""The time left: of the stage that runs now, whatever went before."""

from __future__ import annotations

import time

import pytest

from mabench.cli import console
from mabench.results.tables import duration


def test_time_left_follows_a_slower_stage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with console.bar() as shown:
        for done in range(1, 801):  # 800 quick steps of 0.1 s
            now += 0.1
            shown.update("quick", done, 900)
        for done in range(801, 821):  # 20 slow ones of 61 s
            now += 61
            shown.update("slow", done, 900)
    left = [line.rsplit(", ", 1)[1] for line in capsys.readouterr().err.split("\n") if line.strip()]
    assert left[0].endswith("s left")  # before the slow stage: 300 steps of 0.1 s
    assert left[-1] == f"{duration(80 * 61)} left"
