"""The log of a zygote and its workers, which user code shares through standard logging."""

from __future__ import annotations

from graced.log.logger import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.log.formats import Fields
    from graced.log.output import Output


class WorkerLog(Log):
    """The log of this very process; attached in the zygote, at no cost to its workers."""

    __slots__ = ("_job_of",)

    def __init__(self, *, fields: Fields | None = None, output: Output) -> None:
        super().__init__(fields=fields, output=output)
        self._job_of: Callable[[], int | None] | None = None

    @classmethod
    def of(cls, log: Log) -> WorkerLog:
        """Return one that writes where `log` does."""
        return cls(fields=log._fields, output=log._output)

    def add_fields(self, **fields: Any) -> None:
        """Add to the fields of every record, here and in what standard logging brings."""
        self._fields |= fields

    def set_job(self, job: int | None) -> None:
        """Add the job in hand, to what user code logs too; None: it is done with."""
        if job is None:
            self._fields.pop("job", None)
        else:
            self._fields["job"] = job

    def ask_for_job(self, job_of: Callable[[], int | None]) -> None:
        """Add the job that is in hand where a record is written: there are several at once."""
        self._job_of = job_of

    @property
    def fields(self) -> Fields:
        """What is added to every record."""
        job = None if self._job_of is None else self._job_of()
        return self._fields if job is None else {**self._fields, "job": job}

    def _record(self, level: str, message: str, fields: Fields) -> bytes:
        job = None if self._job_of is None else self._job_of()
        more = fields if job is None or "job" in fields else {**fields, "job": job}
        return super()._record(level, message, more)

    def set_slot(self, slot: int) -> None:
        """Add the slot."""
        self._fields["slot"] = slot

    # The main process has no use for logging, so stdlib is imported by the first zygotes, for all
    # workers at once; once it is idle it imports it for those of later reloads. The library may
    # be out of reach, as for another user: the import of the pool's code fails in the same way
    # then, and tells of it.

    def attach(self) -> None:
        """Bring standard logging and warnings of this process and its children into this log."""
        try:
            from graced.log import stdlib
        except ImportError:
            return
        stdlib.attach(self)

    def report(
        self,
        name: str,
        message: str,
        error: BaseException,
        by: Callable[[Callable[[], None]], Any] | None = None,
    ) -> None:
        """Tell what user code has raised, to its own handlers of logging too, which `by` calls."""
        try:
            from graced.log import stdlib
        except ImportError:
            self.failure(message, error, {})
            return
        stdlib.report(self, name, message, error, by)
