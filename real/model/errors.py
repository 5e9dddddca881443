"""What can go wrong while a model runs."""

from policies.checks import InputError


class NonFinite(InputError):
    """A model gave logits that are no numbers: its weights or its type are at fault, and no token can be chosen."""
