"""The page about sources is true: every example of a file is read as it stands there."""

import io
import json
import re
import tarfile
from pathlib import Path

import pytest

from drift.config.data import Format, IngestConfig
from drift.data.problems import checks, formats, ingestion
from drift.data.problems.ingestion import ingest
from tests.pool_rows import png
from tests.sources_written import parquet

PAGE = Path("docs/sources.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


def write_example(folder: Path, name: str) -> Path:
    """The file of that name, and the images that it refers to."""
    (folder / "images").mkdir()
    for number in range(2):
        (folder / "images" / f"{number}.png").write_bytes(png(shade=number))
    path, text = folder / name, EXAMPLES[name]
    if path.suffix == ".parquet":
        return parquet(path, [json.loads(line) for line in text.splitlines()])
    if path.suffix == ".tar":
        return write_tar(path, text)
    path.write_text(text, encoding="utf-8")
    return path


def write_tar(path: Path, text: str) -> Path:
    with tarfile.open(path, "w") as file:
        for name, _, told in (line.partition(" ") for line in text.splitlines()):
            content = (path.parent / told).read_bytes() if name.endswith(".png") else told.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_read_whole(tmp_path, name):
    report = ingest(IngestConfig(source=str(write_example(tmp_path, name))), tmp_path / "problems")
    assert report.rejected == {} and 1 <= report.kept == report.read


def test_every_format_has_a_heading_and_every_reason_to_reject_a_line():
    named = {form for form in Format.__args__ if f"\n## {form}\n" in PAGE}
    assert named == set(Format.__args__)
    code = "".join(Path(module.__file__).read_text(encoding="utf-8") for module in (checks, formats, ingestion))
    reasons = set(re.findall(r'Rejected\(\s*"(\w+)"', code))
    assert {reason for reason in reasons if f"`{reason}`" not in PAGE} == set()
