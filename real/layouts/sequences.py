"""The tokens of every request: its prompt, and what has been generated."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from threading import Lock


class Sequences:
    """Prompts by request id, and answers as they grow.

    What an iteration generated is taken at once and put in its place when there is time, or when anybody looks.
    """

    def __init__(self, prompts: Sequence[Sequence[int]]) -> None:
        """Begin with the prompts, by request id."""
        self._prompts = prompts
        self._generated: dict[int, list[int]] = {}
        self._new: deque[Mapping[int, int]] = deque()
        self._lock = Lock()  # a prefill on the other lane looks as well

    @property
    def generated(self) -> dict[int, list[int]]:
        """Tokens generated so far, by request; requests without any have no entry."""
        self.settle()
        return self._generated

    def known(self, request: int) -> list[int]:
        """All tokens of a request so far: what a prefill computes."""
        return [*self._prompts[request], *self.generated.get(request, ())]

    def last(self, requests: Iterable[int]) -> list[int]:
        """The token generated last of each request: what a decode step computes."""
        generated = self.generated
        return [generated[request][-1] for request in requests]

    def extend(self, tokens: Mapping[int, int]) -> None:
        """Append one token to each of these requests."""
        self._new.append(tokens)

    def settle(self) -> None:
        """Put in its place what was generated."""
        with self._lock:
            while self._new:
                for request, token in self._new.popleft().items():
                    self._generated.setdefault(request, []).append(token)
