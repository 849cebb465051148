"""What counts as the code of a step."""

import subprocess
import sys

import pytest

from drift.fingerprint import code_fingerprint, import_closure


def test_a_training_does_not_depend_on_the_report_or_the_tracking():
    closure = import_closure("drift.arm")
    assert {"drift.train", "drift.prior", "drift.gradient", "drift.merge", "drift.checkpoints"} <= closure
    assert not {"drift.report", "drift.tracking", "drift.registry", "drift.gate", "drift.cli"} & closure


def test_fetching_what_training_starts_from_does_not_depend_on_the_evaluation():
    assert not {"drift.evaluate", "drift.gate", "drift.train"} & import_closure("drift.start")


def test_imports_inside_functions_count():
    assert "drift.evaluate.rule" in import_closure("drift.evaluate"), "evaluate imports its protocol when it runs"


def test_a_package_imported_on_the_way_counts():
    assert {"drift", "drift.data", "drift.data.ingest"} <= import_closure("drift.data.ingest")


def test_the_fingerprint_is_the_same_every_time_and_another_for_another_module():
    assert code_fingerprint("drift.gate") == code_fingerprint("drift.gate")
    assert code_fingerprint("drift.gate") != code_fingerprint("drift.report")


def test_a_module_that_does_not_exist_is_an_error():
    with pytest.raises(ModuleNotFoundError, match=r"drift\.nothing"):
        import_closure("drift.nothing")


def test_planning_imports_neither_torch_nor_kubeflow_nor_mlflow():
    code = (
        "import sys; from drift.fingerprint import code_fingerprint; import drift.plan; code_fingerprint('drift.arm');"
        "print(sorted({'torch', 'transformers', 'kfp', 'mlflow'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
