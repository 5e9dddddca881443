"""The one error that bad input raises."""


class InputError(ValueError):
    """Input that a person can mend: says what is wrong, where, and how to mend it, in one line.

    The command lines print its text alone and exit with code 2; anything else that is raised is a defect of ours.
    """
