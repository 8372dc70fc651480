"""Command lines as records keep them."""

import pathlib
import re
import shlex


def without_paths(command: str) -> str:
    """A command line in which files elsewhere have their names in the place of paths that only one machine has.

    Relative paths stay as typed, unless they lead upwards; and so does the whole line if there is no other path.
    """
    pattern = re.compile(r"\A((?:--[^=/]+=)?(?:\w+:)?)(.+)\Z", re.DOTALL)
    words = shlex.split(command)
    named = [pattern.sub(_named, word) for word in words]
    return command if named == words else shlex.join(named)


def _named(word: re.Match[str]) -> str:
    """A word of a command line, such as npz:FILE or --output=FILE, with the file's name if it is elsewhere."""
    before, path = word[1], pathlib.Path(word[2])
    elsewhere = path.is_absolute() or word[2].startswith("~") or ".." in path.parts
    return before + path.name if elsewhere and path.name else word[0]
