"""Files at addresses: what is said where one cannot be had."""

from pathlib import Path

import pytest

from drift.ground.errors import ServiceError
from drift.tracking.models.storage import cause, download, why_not


@pytest.mark.parametrize("address", ["/models/a", "file:///models/a", "s3://bucket/a", "models:/a/1", "runs:/a/b"])
def test_an_address_of_a_kind_that_mlflow_knows_may_be_tried(address: str):
    assert why_not(address) == ""


def test_one_of_another_kind_is_refused_with_its_kind_and_without_the_password_in_it(tmp_path: Path):
    said = r"^minio://host/a: cannot be downloaded: MLflow does not know 'minio://'; give the model's folder, or"
    with pytest.raises(ServiceError, match=said):
        download("minio://user:secret@host/a", tmp_path, "sqlite:///none.db")


def test_a_package_that_a_bucket_needs_is_named_with_how_to_get_it():
    assert cause(ModuleNotFoundError("No module named 'boto3'")).endswith("; pip install 'drift-mllm[s3]'")
    assert cause(ValueError("the bucket 'boto3' is not there")) == "the bucket 'boto3' is not there"
