"""`python -m jresnet COMMAND`."""

from jresnet.cli.commands import main

if __name__ == "__main__":
    raise SystemExit(main())
