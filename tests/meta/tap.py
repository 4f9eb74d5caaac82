"""TAP for the checks of this directory."""
import shutil
import subprocess
import sys
import traceback

sys.dont_write_bytecode = True


class Skip(Exception):
    pass


def run(checks):
    """checks: (name, function); a function returns the complaints it has.

    A complaint is one line that says what to do. The exit status."""
    bad = 0
    print(f"1..{len(checks)}")
    for i, (name, fn) in enumerate(checks, 1):
        complaints = []
        extra = ""
        try:
            complaints = list(fn() or [])
        except Skip as e:
            extra = f" # SKIP {e}"
        except Exception:                       # a mistake in the check itself
            complaints = traceback.format_exc().splitlines()
        word = "not ok" if complaints else "ok"
        bad += bool(complaints)
        print(f"{word} {i} - {name}{extra}")
        for line in complaints:
            print("# " + line)
        sys.stdout.flush()
    return 1 if bad else 0


def mandoc(*pages):
    """What mandoc has to say of these manuals."""
    if not shutil.which("mandoc"):
        raise Skip("mandoc is not installed")
    done = subprocess.run(["mandoc", "-Tlint", "-Wwarning", *pages],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return [line for line in done.stdout.splitlines() if line]
