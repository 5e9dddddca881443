"""What a policy does wrong while it runs, told in a line that lets its author find the place.

Both engines ask a policy in frames of their own, with the time in a local variable `now`; so a traceback tells who was
asked, and when.
"""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from policies.checks import InputError
from policies.ledger.ledger import Ledger
from policies.plan import IllegalPlan, Plan
from policies.policy import Policy
from sim.engine.loop import Loop

SEE_MORE = "debug=true shows the traceback"

Frames = list[tuple[FrameType, int]]
"""The frames of a traceback, outermost first, and the line in each."""


@contextmanager
def naming(name: str, policy: Policy) -> Iterator[None]:
    """Turn what a policy does wrong while an engine runs it into a line that names it; other errors pass.

    Raises:
        InputError: The ledger refused a plan, the policy raised an exception, it answered what is no `Plan`, or a plan
            with what the ledger cannot read. The exception is the cause.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        frames = list(traceback.walk_tb(error.__traceback__))
        fault = _fault(policy, error, frames)
        if fault is None:
            raise
        raise InputError(f"policy {name}{_when(policy, frames)}: {fault}") from error


def place_of(error: BaseException) -> str:
    """Return FILE:LINE where an exception was raised; of a syntax error, where that is."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno}"
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    return f"{_short(frame.f_code.co_filename)}:{line}"


def kind_of(error: BaseException) -> str:
    """Return the class of an exception and the first line of what it says."""
    said = str(error.msg if isinstance(error, SyntaxError) else error).splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


def _fault(policy: Policy, error: Exception, frames: Frames) -> str | None:
    """Say what a policy did to raise an error; None if it did not."""
    if isinstance(error, IllegalPlan):
        return f"the ledger refused its plan: {error}"
    own = [frame.f_code.co_filename for frame, _ in frames if _is_method_of(policy, frame)]
    if own:
        line = next(line for frame, line in reversed(frames) if frame.f_code.co_filename == own[-1])
        return f"{_short(own[-1])}:{line} raised {kind_of(error)}; {SEE_MORE}"
    code, last = type(policy).plan.__code__, frames[-1][0]
    asked = f"plan() ({_short(code.co_filename)}:{code.co_firstlineno})"
    ours = str(last.f_globals.get("__name__")).startswith(("policies.", "sim.", "real."))
    if ours and "plan" in last.f_locals and not isinstance(last.f_locals["plan"], Plan):
        return f"{asked} returned {last.f_locals['plan']!r:.60}, which is no policies.plan.Plan"
    if any(frame.f_code in (Ledger.begin.__code__, Loop._warm.__code__) for frame, _ in frames):
        return f"{asked} returned a plan that cannot be read: {kind_of(error)}; {SEE_MORE}"
    return None


def _is_method_of(policy: Policy, frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_argcount > 0 and frame.f_locals.get(code.co_varnames[0]) is policy


def _when(policy: Policy, frames: Frames) -> str:
    """Say when an engine asked the policy, on its clock."""
    times = [
        frame.f_locals["now"]
        for frame, _ in frames
        if "now" in frame.f_locals and getattr(frame.f_locals.get("self"), "_policy", None) is policy
    ]
    return f" at {times[-1]:.6g} s" if times else ""


def _short(path: str) -> str:
    """Return a path as one would give it from here."""
    return os.path.relpath(path) if path.startswith(f"{os.getcwd()}{os.sep}") else path
