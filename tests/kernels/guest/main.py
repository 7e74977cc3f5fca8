"""Runs the tests of the virtual machine, in order: later ones build on what earlier ones left.

Prints "test NAME ... ok" or "test NAME ... FAILED" for each, and "end" after the last.
"""

import sys
import time
import traceback

sys.path.insert(0, "/mnt/test")

import flowtable  # noqa: E402
import lab  # noqa: E402
import story  # noqa: E402


def tests():
    for module in (story, flowtable):
        for name, function in vars(module).items():
            if name.startswith("test_"):
                yield module.__name__, name.removeprefix("test_"), function


def journal():
    _, text = lab.run("journalctl", "--no-pager", "-o", "cat", "-u", "proxygw", "-n", "60", check=False)
    return text


def main():
    for module, name, function in tests():
        began = time.monotonic()
        failure = None
        try:
            function()
        except Exception:  # a failed test must not keep the others from running
            failure = traceback.format_exc()
        took = time.monotonic() - began
        print(f"test {module}::{name} ... {'FAILED' if failure else 'ok'}")
        print(f"    after {took:.1f} s")
        if failure:
            print(failure)
            print("The end of the unit's journal:")
            print(journal())
    print("end")


main()
