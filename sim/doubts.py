"""What speaks against a profile: how badly it meets iterations that were kept out of its fit."""

from sim.hardware import Device
from sim.profile import Fit, Profile

TOTAL = 0.10
"""Relative error of the total time of held-out iterations from which a profile is doubted."""
EACH = 0.25
"""Mean relative error of single held-out iterations, noise included, from which it is."""
EXPLAINED = 0.90
"""Share of the variance of prefills and mixed iterations that must be explained, at least.

Decode steps of one model take almost the same time, so that noise is most of their variance and R squared says little:
they are judged by what is held out alone."""

NAMED = 2
"""Fits that a sentence names, the worst."""


def doubts(hardware: Device) -> list[str]:
    """Return a sentence if the hardware is a profile that met its own measurements badly."""
    if not isinstance(hardware, Profile):
        return []
    found = [
        (_badness(fit), f"{costs.layout}, {fit.phase}: {', '.join(wrong)}")
        for costs in hardware.layouts
        for fit in costs.fits
        if (wrong := _wrong(fit))
    ]
    if not found:
        return []
    worst = [said for _, said in sorted(found, reverse=True)[:NAMED]]
    told = [*worst, f"and {len(found) - NAMED} more"] if len(found) > NAMED else worst
    more = "more profile.rounds= or threads=1" if hardware.threads > 1 else "more profile.rounds="
    return [
        f"the profile {hardware.name} is poor, and so is what it predicts ({'; '.join(told)}); profile again with "
        f"nothing else running, or {more}"
    ]


def _badness(fit: Fit) -> float:
    """How many times its limit the worst figure of a fit is."""
    unexplained = 0.0 if fit.phase == "decode" or fit.r2 is None else (1 - fit.r2) / (1 - EXPLAINED)
    return max(abs(fit.held_out_error or 0.0) / TOTAL, (fit.held_out_spread or 0.0) / EACH, unexplained)


def _wrong(fit: Fit) -> list[str]:
    wrong = []
    if fit.held_out_error is not None and abs(fit.held_out_error) > TOTAL:
        wrong.append(f"held-out time is met with {fit.held_out_error:+.0%}")
    if fit.held_out_spread is not None and fit.held_out_spread > EACH:
        wrong.append(f"single held-out iterations with {fit.held_out_spread:.0%}")
    if fit.phase != "decode" and fit.r2 is not None and fit.r2 < EXPLAINED:
        wrong.append(f"R\u00b2 is {fit.r2:.2f}")
    return wrong
