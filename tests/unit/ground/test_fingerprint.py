"""What counts as the code of a step."""

import subprocess
import sys

import pytest

from drift.ground.fingerprint import code_fingerprint, import_closure


def test_a_training_does_not_depend_on_the_report_or_the_tracking():
    closure = import_closure("drift.training.arm")
    assert {
        "drift.training.sft",
        "drift.prior.prior",
        "drift.prior.gradient",
        "drift.weights.merging.tensors",
        "drift.weights.storage.checkpoints",
    } <= closure
    assert (
        not {
            "drift.gate.report.page",
            "drift.tracking.store",
            "drift.tracking.models.registry",
            "drift.gate.decision",
            "drift.cli.app",
        }
        & closure
    )


def test_fetching_what_training_starts_from_does_not_depend_on_the_evaluation():
    assert not {"drift.evaluate.evaluation", "drift.gate.decision", "drift.training.sft"} & import_closure(
        "drift.training.start"
    )


def test_imports_inside_functions_count():
    assert "drift.evaluate.rule" in import_closure("drift.evaluate.evaluation"), (
        "evaluate imports its protocol when it runs"
    )


def test_a_package_imported_on_the_way_counts():
    assert {"drift", "drift.data", "drift.data.problems.ingestion"} <= import_closure("drift.data.problems.ingestion")


def test_the_fingerprint_is_the_same_every_time_and_another_for_another_module():
    assert code_fingerprint("drift.gate.decision") == code_fingerprint("drift.gate.decision")
    assert code_fingerprint("drift.gate.decision") != code_fingerprint("drift.gate.report.page")


def test_a_module_that_does_not_exist_is_an_error():
    with pytest.raises(ModuleNotFoundError, match=r"drift\.nothing"):
        import_closure("drift.nothing")


def test_planning_imports_neither_torch_nor_kubeflow_nor_mlflow():
    code = (
        "import sys; from drift.ground.fingerprint import code_fingerprint; import drift.config.plan;"
        "code_fingerprint('drift.training.arm');"
        "print(sorted({'torch', 'transformers', 'kfp', 'mlflow'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
