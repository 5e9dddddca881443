"""What is done with results when a task with many runs ends early."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from policies.errors import InputError


@contextmanager
def salvaging(save: Callable[[], str | None], nothing: str) -> Iterator[None]:
    """Save what was finished when a person interrupts, or must mend something.

    Args:
        save: Writes what there is and says so in words; None if there is nothing.
        nothing: What is said of that.

    Raises:
        InputError: As raised within, with what was saved.
        KeyboardInterrupt: As raised within; the message says what was saved.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted: {save() or nothing}") from None
    except InputError as error:
        saved = save()
        raise (InputError(f"{error}; {saved}") if saved else error) from error.__cause__
