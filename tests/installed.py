"""Commands of an installed drift without any of its extras, one after the other in one process; JSON in, JSON out.

Run as a file, by the Python that drift is installed for: its folder is not looked in for modules (-P).
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback

EXTRAS = (
    "kfp", "kfp_kubernetes", "kubernetes", "croniter", "docker", "deepspeed", "peft", "pynvml", "liger_kernel", "ray",
    "boto3", "trl",
)  # fmt: skip


def ended(arguments: list[str]) -> dict[str, int | str]:
    """Exit code and what was printed."""
    from drift.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:
            traceback.print_exc()
            code = 1
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


if __name__ == "__main__":
    sys.modules.update(dict.fromkeys(EXTRAS))  # to import one of these says that it is not installed
    results = [ended(arguments) for arguments in json.load(sys.stdin)]
    json.dump(results, sys.stdout)
