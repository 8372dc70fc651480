"""`python -m jresnet COMMAND`, and the program `jresnet`."""

import gc


def main() -> int:
    """Run a command of `jresnet`; returns its exit status."""
    # What is imported stays: to look for garbage among it, then and at every later collection, takes a sixth of the
    # time of a short command.
    gc.disable()
    from jresnet.cli.commands import main as run

    gc.freeze()
    gc.enable()
    return run()


if __name__ == "__main__":
    raise SystemExit(main())
