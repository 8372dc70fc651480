"""How many steps a call of a compiled program makes: enough to hide what a call costs, few enough to answer signals."""

# Target duration of a call, in which no stop signal is answered.
CALL_SECONDS = 1.0


def next_steps(chosen: int, steps: int, seconds: float, most: int) -> int:
    """Steps for the next calls, from 1 to `most`, after a call of `steps` that took so many seconds.

    Results do not depend on them. They grow at most fourfold, as one timing may mislead. A call of fewer than the
    `chosen` steps was an epoch's last one, and says little.
    """
    if steps < chosen:
        return chosen
    return max(1, min(4 * chosen, int(steps * CALL_SECONDS / max(seconds, 1e-6)), most))
