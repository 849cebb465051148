"""What a step may do with files in MLflow, tried and taken back."""

from pathlib import Path

import pytest

from drift.ground.errors import ServiceError
from drift.tracking.models.registration import register
from drift.tracking.models.rights import check_champion, check_files
from tests.fault_proxy import Fault, FaultProxy
from tests.mlflow_server import mlflow_server
from tests.s3_server import KEYS, s3_server
from tests.unit.tracking.test_registry import CONFIG, gate, model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_a_registration_needs_is_tried_through_a_server_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with mlflow_server(tmp_path) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert check_files("drift") == "mlflow-artifacts:/1 may be written and read"
        assert check_champion("drift-vlm") == "drift-vlm has none yet"
        made = model(tmp_path / "model", weights="w" * 1000)
        register(CONFIG, model=str(made), gate=gate(tmp_path / "gate", made))
        before = files(tmp_path / "artifacts")
        check_files("drift")
        assert check_champion("drift-vlm") == "models:/drift-vlm/1 can be fetched (config.json)"
        assert files(tmp_path / "artifacts") == before
        (config,) = (tmp_path / "artifacts").rglob("config.json")
        for path in (config, config.with_name("model.safetensors")):
            path.unlink()
        with pytest.raises(
            ServiceError, match=r"drift-vlm/1: cannot be downloaded \(.*the step evaluate_champion would"
        ):
            check_champion("drift-vlm")


def test_a_bucket_that_the_server_hands_out_needs_keys_in_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with s3_server("mlflow") as (bucket,):
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", bucket.address)
        root = ("--no-serve-artifacts", "--default-artifact-root", "s3://mlflow/files")
        with mlflow_server(tmp_path, *root, environment=KEYS) as address:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            with pytest.raises(
                ServiceError, match=r"s3://mlflow/files/1: .*credentials.*give the steps the rights and"
            ):
                check_files("drift")
        assert bucket.keys() == []


def test_a_bucket_that_the_server_alone_can_reach_is_written_and_read_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A server over S3 gives every client signed addresses of its bucket, whether or not they can be reached."""
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", "1")
    for name in ("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"):
        monkeypatch.setenv(name, "")  # put back at the end
        monkeypatch.delenv(name)
    hidden = Fault("Signature=", "drop")
    with s3_server("mlflow") as (bucket,), FaultProxy(bucket.address, [hidden]) as proxy:
        root = ("--artifacts-destination", "s3://mlflow/files")
        with mlflow_server(tmp_path, *root, environment=KEYS | {"MLFLOW_S3_ENDPOINT_URL": proxy.host}) as address:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            made = model(tmp_path / "model", weights="w" * 1000)
            register(CONFIG, model=str(made), gate=gate(tmp_path / "gate", made))
            assert check_files("drift") and check_champion("drift-vlm").endswith("can be fetched (config.json)")
        assert proxy.asked and not proxy.broken
        assert [key for key in bucket.keys("files/") if key.endswith("model.safetensors")]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = ("--no-serve-artifacts", "--default-artifact-root", "file:///proc/none")
    with mlflow_server(tmp_path, *root) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(ServiceError, match=r"file:///proc/none/1: cannot be written and read \(.*artifacts-dest"):
            check_files("drift")


def test_a_server_elsewhere_that_keeps_files_in_a_folder_of_whoever_writes_them_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The name stands for the server's in a cluster: to the check not this machine's, and it answers all the same."""
    root = ("--no-serve-artifacts", "--default-artifact-root", str(tmp_path / "mlruns"), "--allowed-hosts", "*")
    with mlflow_server(tmp_path, *root) as address:
        elsewhere = address.replace("127.0.0.1", "127.1")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", elsewhere)
        with pytest.raises(ServiceError, match=r"keeps files in .*mlruns/1, a folder of whoever writes them"):
            check_files("drift")
        assert not (tmp_path / "mlruns").exists()
