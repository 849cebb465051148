"""Settings of every test: quiet libraries; in CI the same examples every time, and a skipped test is a failed one."""

import os
import zlib

import hypothesis
import pytest

hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_collection_modifyitems(items):
    """Whole chains first; then files in a fixed mixed order, so that those that compute run beside those that wait."""
    whole = ("tests/end_to_end/", "tests/faults/", "tests/components/", "tests/services/")
    file_of = {item: item.nodeid.partition("::")[0] for item in items}
    items.sort(key=lambda item: 0 if file_of[item].startswith(whole) else zlib.crc32(file_of[item].encode()) + 1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which counts as a failure in CI: {report.longrepr}"
    return report
