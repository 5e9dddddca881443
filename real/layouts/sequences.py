"""The tokens of every request: its prompt, and what has been generated."""

from collections.abc import Sequence


class Sequences:
    """Prompts by request id, and answers as they grow.

    Attributes:
        generated: Tokens generated so far, by request; requests without any have no entry.
    """

    def __init__(self, prompts: Sequence[Sequence[int]]) -> None:
        """Begin with the prompts, by request id."""
        self._prompts = prompts
        self.generated: dict[int, list[int]] = {}

    def known(self, request: int) -> list[int]:
        """All tokens of a request so far: what a prefill computes."""
        return [*self._prompts[request], *self.generated.get(request, ())]

    def last(self, request: int) -> int:
        """The token generated last: what a decode step computes."""
        return self.generated[request][-1]

    def extend(self, tokens: dict[int, int]) -> None:
        """Append one token to each of these requests."""
        for request, token in tokens.items():
            self.generated.setdefault(request, []).append(token)
