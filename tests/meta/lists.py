"""Reads the project's lists: wrap.def, reason.def, wire.def, the settings."""
import pathlib
import re

TOP = pathlib.Path(__file__).resolve().parent.parent.parent


def _text(path):
    return re.sub(r"/\*.*?\*/", "", (TOP / path).read_text(), flags=re.S)


def calls():
    """(kind, family, name) of every intercepted call, in the list's order."""
    return re.findall(r"^([A-Z]+)\((\w+),[^,]+,\s*(\w+),", _text("wrap/wrap.def"), re.M)


def reasons():
    """(NAME, number, word, explanation)."""
    return [(n, int(nr), w, t) for n, nr, w, t in
            re.findall(r'^REASON\((\w+),\s*(\d+),\s*"([^"]*)",\s*"([^"]*)"\)',
                       _text("lib/reason.def"), re.M)]


def messages():
    """(NAME, number, keyed, [(type, member)])."""
    found = []
    for name, nr, keyed, fields in re.findall(
            r"^MSG\((\w+),\s*(\d+),\s*(\d),((?:[^()]|\([^()]*\))*)\)", _text("lib/wire.def"),
            re.M):
        found.append((name, int(nr), int(keyed), re.findall(r"(\w+)\((\w+)\)", fields)))
    return found


def settings():
    """Environment variable -> its words (first: the default), or None for free text."""
    src = (TOP / "lib/conf.c").read_text()
    arrays = {n: re.findall(r'"([^"]*)"', words) for n, words in
              re.findall(r"\*const (\w+)\[\] = \{([^}]*)\}", src)}
    found = {}
    for var, array in re.findall(r'choice\("(\w+)",\s*(\w+)\)', src):
        found[var] = arrays[array]
    for var in re.findall(r'seconds\("(\w+)"', src):
        found[var] = None
    for var in re.findall(r'(?:getenv|setting)\("(\w+)"\)', src):
        found.setdefault(var, None)
    return found
