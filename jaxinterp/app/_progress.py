"""Progress of long work: a bar in a terminal, a plain line now and then elsewhere."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[int, str], None]
"""Takes how much is done in all, and a note such as the current loss."""

PLAIN_INTERVAL = 5.0
"""Seconds between the plain lines."""


@dataclasses.dataclass(frozen=True)
class Reporter:
    """Tells people what goes on, on the standard error stream; results go to the standard output.

    Attributes:
      console: where to.
    """

    console: Console = dataclasses.field(default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))

    def say(self, message: str) -> None:
        """Prints a line."""
        self.console.print(message, markup=False)

    @contextlib.contextmanager
    def progress(self, name: str, total: int, unit: str, *, done: int = 0) -> Iterator[Advance]:
        """Shows the progress of `total` units of work, with rate and time left.

        Args:
          name: of the work.
          total: number of units.
          unit: their name.
          done: units that were done before, in an earlier run.
        """
        show = self._bar if self.console.is_terminal else self._lines
        with show(name, total, unit, done) as advance:
            yield advance

    @contextlib.contextmanager
    def _bar(self, name: str, total: int, unit: str, done: int) -> Iterator[Advance]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console) as bar:
            task = bar.add_task(name, total=total, completed=done, rate="", note="")
            rate = _rate(done)

            def advance(completed: int, note: str = "") -> None:
                bar.update(task, completed=completed, note=note, rate=f"{rate(completed):.3g}/s")

            yield advance

    @contextlib.contextmanager
    def _lines(self, name: str, total: int, unit: str, done: int) -> Iterator[Advance]:
        rate = _rate(done)
        last, shown = time.perf_counter(), done

        def advance(completed: int, note: str = "") -> None:
            nonlocal last, shown
            now = time.perf_counter()
            if completed == shown or (completed < total and now - last < PLAIN_INTERVAL):
                return
            last, shown = now, completed
            speed = rate(completed)
            left = f"{(total - completed) / speed:.0f} s left" if speed else "time left unknown"
            self.say(f"{name}: {completed}/{total} {unit}, {speed:.3g}/s, {left}{'; ' + note if note else ''}")

        yield advance


def _rate(done: int) -> Callable[[int], float]:
    """Units per second since now, not counting what was done before."""
    start = time.perf_counter()
    return lambda completed: (completed - done) / max(time.perf_counter() - start, 1e-9)
