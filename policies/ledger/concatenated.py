"""KV memory of a batch that is concatenated anew whenever it changes, instead of being shaped in place."""

from policies.job import Job
from policies.ledger.batch import Batch
from policies.ledger.rectangle import Rectangle


class Concatenated(Rectangle):
    """Reserves as a rectangle does, and copies more: the batch at every step, and once more when its rows have changed.

    Old and new tensors are there at once, so half of the memory is kept for that.
    """

    def __init__(self, limit: int, batch: Batch, max_rows: int) -> None:
        super().__init__(limit // 2, batch, max_rows, "max")
        self._changed = False

    def _copy_rows(self) -> None:
        """Nothing moves when the reservation changes: no tensor has its size."""

    def _place(self, request: int) -> None:
        super()._place(request)
        self._changed = True

    def release(self, job: Job, length: int) -> None:
        """Let the row go at the next concatenation."""
        self._changed = self._changed or job.id in self._places
        super().release(job, length)

    def compact(self) -> None:
        """Concatenate the rows, if they have changed, and then the step's column to them: each copies the window."""
        super().compact()
        window = len(self._batch.rows) * self._batch.longest
        self.copied = window * (2 if self._changed else 1)
        self.transient = window
        self._changed = False

    def save(self) -> object:
        """Return all that a plan can change."""
        return super().save(), self._changed

    def restore(self, saved: object) -> None:
        """Set it back."""
        assert isinstance(saved, tuple)
        rectangle, self._changed = saved
        super().restore(rectangle)
