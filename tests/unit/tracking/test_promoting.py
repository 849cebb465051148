"""Which version serves after runs, people and accidents: the table of cases."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from drift.config.gate import RegisterConfig
from drift.ground.artifacts import content_sha256
from drift.ground.errors import DataError, DriftError
from drift.tracking.models.by_hand import promote_by_hand, reject, roll_back
from drift.tracking.models.registration import RegisterReport, register
from drift.tracking.models.registry import fetch, find_champion
from tests.unit.tracking.test_registry import CONFIG, aliases, client, gate, model, versions

__all__ = ["client"]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

NAME = CONFIG.model


class Chain:
    """Models that pass the gate one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gates = 0

    def model(self, name: str) -> Path:
        folder = self.folder / name
        return folder if folder.exists() else model(folder, weights=name)

    def run(
        self, name: str, *, against: str | None = None, config: RegisterConfig = CONFIG, **more: bool
    ) -> RegisterReport:
        """Register a model that the gate found better than another."""
        self.gates += 1
        champion = self.model(against) if against else None
        decision = gate(self.folder / f"gate{self.gates}", self.model(name), against=champion, **more)
        return register(config, model=str(self.model(name)), gate=decision)


@pytest.fixture
def chain(client: MlflowClient, tmp_path: Path) -> Chain:
    """`one` was champion, `two` is."""
    made = Chain(tmp_path)
    made.run("one")
    made.run("two", against="one")
    return made


def test_a_champion_that_was_rolled_back_is_not_promoted_again_by_the_next_run(client: MlflowClient, chain: Chain):
    moved = roll_back(NAME, reason="invents sources")
    assert (moved.champion, moved.before) == (1, 2)
    assert aliases(client) == {"candidate": 2, "champion": 1, "best": 1}
    report = chain.run("two", against="one")
    assert (report.version, report.champion, report.previous) == (2, False, None)
    assert report.alias.startswith("Version 2 was rolled back by ")
    assert "(invents sources): the alias champion stays; `drift models promote drift-vlm 2 --yes-again`" in report.alias
    assert aliases(client)["champion"] == 1


def test_the_next_better_model_takes_over_after_a_rollback(client: MlflowClient, chain: Chain):
    roll_back(NAME, reason="bad")
    assert chain.run("three", against="one").champion
    assert aliases(client) == {"candidate": 3, "champion": 3, "previous": 1, "best": 3}
    moved = roll_back(NAME, reason="bad too")
    assert (moved.champion, moved.before) == (1, 3)
    with pytest.raises(DataError, match="no champion before version 1 is left; name a version with --to, or"):
        roll_back(NAME, reason="all bad")


def test_a_first_champion_that_is_bad_can_be_taken_back_and_the_next_one_takes_the_empty_place(
    client: MlflowClient, tmp_path: Path
):
    chain = Chain(tmp_path)
    chain.run("one")
    assert roll_back(NAME, reason="bad", to="none").champion is None
    assert aliases(client) == {"candidate": 1}
    assert chain.run("one").alias.startswith("Version 1 was rolled back by ")
    assert chain.run("two").champion
    assert aliases(client) == {"candidate": 2, "champion": 2, "best": 2}


def test_a_rollback_gives_the_title_back_to_the_best_champion_that_nobody_took_back(client: MlflowClient, chain: Chain):
    chain.run("lesser", against="two", best_ever=False)
    assert aliases(client) == {"candidate": 3, "champion": 3, "previous": 2, "best": 2}
    chain.run("best", against="lesser")
    roll_back(NAME, reason="bad")
    assert aliases(client) == {"candidate": 4, "champion": 3, "best": 2}
    assert client.get_model_version(NAME, "3").tags["drift.promoted_reason"] == "version 4 was rolled back: bad"


@pytest.mark.parametrize("reason", ["", "  "])
def test_who_takes_a_version_back_says_why(chain: Chain, reason: str):
    with pytest.raises(DataError, match="--reason: is empty; say why"):
        roll_back(NAME, reason=reason)
    with pytest.raises(DataError, match="--reason: is empty; say why"):
        reject(NAME, "1", reason=reason)


def test_an_alias_that_somebody_moved_back_in_mlflow_counts_as_a_rollback(client: MlflowClient, chain: Chain):
    client.set_registered_model_alias(NAME, "champion", "1")
    report = chain.run("two", against="one")
    assert not report.champion
    assert "Version 2 was champion, until somebody moved the alias back in MLflow" in report.alias
    assert aliases(client)["champion"] == 1


def test_the_same_holds_of_a_version_that_was_champion_twice(client: MlflowClient, chain: Chain):
    assert chain.run("one", against="two").champion
    client.set_registered_model_alias(NAME, "champion", "2")
    assert "Version 1 was champion, until somebody moved" in chain.run("one", against="two").alias
    assert aliases(client)["champion"] == 2


def test_a_champion_that_a_better_one_followed_may_come_back_by_the_gate(client: MlflowClient, chain: Chain):
    assert chain.run("one", against="two").champion
    assert aliases(client)["champion"] == 1


def test_a_person_promotes_again_what_was_rolled_back_and_it_stays_so(client: MlflowClient, chain: Chain):
    roll_back(NAME, reason="bad")
    with pytest.raises(DriftError, match=r"version 2 was rolled back by .* \(bad\); --yes-again promotes it all the"):
        promote_by_hand(NAME, "2")
    moved = promote_by_hand(NAME, "2", reason="was right", yes_again=True)
    assert (moved.champion, moved.before) == (2, 1)
    assert aliases(client) == {"candidate": 2, "champion": 2, "previous": 1, "best": 2}
    tags = client.get_model_version(NAME, "2").tags
    assert "drift.blocked" not in tags and tags["drift.promoted_reason"] == "was right" and tags["drift.promoted_by"]
    assert chain.run("two", against="one").champion


def test_a_rejected_version_is_never_promoted_by_a_run(client: MlflowClient, chain: Chain):
    manual = RegisterConfig(model=NAME, promotion="manual")
    assert chain.run("three", against="two", config=manual).alias == (
        "register.promotion is manual: the alias champion stays; `drift models promote drift-vlm 3` moves it."
    )
    said = reject(NAME, "candidate", reason="licence")
    assert (said.version, said.reason) == (3, "licence")
    report = chain.run("three", against="two")
    assert not report.champion and "Version 3 was rejected by " in report.alias
    with pytest.raises(DriftError, match=r"version 2: is champion; `drift models rollback` takes it back"):
        reject(NAME, "2", reason="licence")


def test_a_candidate_is_promoted_by_a_person_where_the_configuration_says_so(client: MlflowClient, chain: Chain):
    chain.run("three", against="two", config=RegisterConfig(model=NAME, promotion="manual"))
    assert promote_by_hand(NAME, "3").before == 2
    assert aliases(client) == {"candidate": 3, "champion": 3, "previous": 2, "best": 3}


def test_a_person_is_told_that_another_one_is_champion_than_the_gate_compared_with(client: MlflowClient, chain: Chain):
    manual = RegisterConfig(model=NAME, promotion="manual")
    chain.run("three", against="two", config=manual)
    chain.run("four", against="two")
    with pytest.raises(DriftError, match=r"version 3: The gate compared with version 2, and version 4 is champion now"):
        promote_by_hand(NAME, "3")
    assert aliases(client)["champion"] == 4


def test_a_champion_that_changed_between_the_gate_and_the_registration_stays(client: MlflowClient, chain: Chain):
    report = chain.run("three", against="one")
    assert report.alias.startswith("The gate compared with version 1, and version 2 is champion now")
    client.delete_registered_model_alias(NAME, "champion")
    report = chain.run("three", against="two")
    assert report.alias.startswith("The gate compared with version 2, and no version is champion now")


@pytest.mark.parametrize("version", ["7", "winner", "best-of-all"])
def test_a_version_or_alias_that_does_not_exist_is_named_with_those_that_do(chain: Chain, version: str):
    with pytest.raises(DataError, match=rf"no version or alias '{version}'; there is 1, 2, "):
        promote_by_hand(NAME, version)
    with pytest.raises(DataError, match="none: no such registered model; there is drift-vlm"):
        promote_by_hand("none", "1")


def copy_of(chain: Chain, name: str) -> Path:
    """Where MLflow keeps a model's files."""
    weights = (chain.folder / "mlartifacts").rglob("model.safetensors")
    return next(path.parent for path in weights if path.read_text() == name)


@pytest.mark.parametrize("gone", ["model.safetensors", "MLmodel", "."])
def test_a_version_whose_files_are_gone_is_made_whole_by_registering_it_again(
    client: MlflowClient, chain: Chain, tmp_path: Path, gone: str
):
    place = copy_of(chain, "two")
    before = sorted(path.relative_to(place) for path in place.rglob("*"))
    shutil.rmtree(place) if gone == "." else (place / gone).unlink()
    report = chain.run("two", against="one")
    assert (report.version, report.created, report.repaired, report.champion) == (2, False, True, True)
    assert sorted(path.relative_to(place) for path in place.rglob("*")) == before
    champion = find_champion(NAME)
    (tmp_path / "into").mkdir()
    assert champion is not None
    assert content_sha256(fetch(champion, tmp_path / "into")) == content_sha256(chain.model("two"))
    assert chain.run("two", against="one").repaired is False


def test_a_version_that_was_deleted_together_with_its_files_is_made_anew(client: MlflowClient, chain: Chain):
    place = copy_of(chain, "two")
    shutil.rmtree(place)
    client.delete_model_version(NAME, "2")
    assert chain.run("two", against="one").version == 3
    assert (place / "model.safetensors").read_text() == "two"


def test_a_version_whose_copy_was_deleted_from_mlflow_gets_a_new_one_with_its_aliases(
    client: MlflowClient, chain: Chain
):
    client.delete_logged_model(client.get_model_version(NAME, "2").tags["drift.model_id"])
    report = chain.run("two", against="one")
    assert (report.version, report.created, report.champion) == (3, True, True)
    assert aliases(client) == {"candidate": 3, "champion": 3, "previous": 1, "best": 3}


WRITES = [
    name for name in dir(MlflowClient) if re.match("(create|set|update|delete|log|finalize|rename|transition)_", name)
]
"""Every call that changes something."""


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The process dies before that write to MLflow, counted down from the list's only number."""
    left = [10**9]

    def counted(name: str):
        write = getattr(MlflowClient, name)

        def call(*arguments, **more):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return write(*arguments, **more)

        return call

    for name in WRITES:
        monkeypatch.setattr(MlflowClient, name, counted(name))
    yield left


@pytest.mark.slow
def test_a_registration_that_dies_before_any_of_its_writes_is_finished_by_the_next(
    client: MlflowClient, chain: Chain, dying: list[int]
):
    champions, done, writes = [], False, 0
    while not done:
        weights, before = f"three-{writes}", f"three-{writes - 1}" if writes else "two"
        dying[0] = writes
        try:
            chain.run(weights, against=before)
            done = True
        except KeyboardInterrupt:
            dying[0] = 10**9
            champion = find_champion(NAME)
            assert champion and champion.fingerprint in [content_sha256(chain.model(one)) for one in (before, weights)]
            champions.append(champion.version)
            assert chain.run(weights, against=before).champion
        writes += 1
    assert writes > 15, "each registration makes so many writes"
    assert versions(client) == list(range(1, writes + 3)), "none twice"
    assert champions == sorted(champions), "never an earlier one"
    assert aliases(client)["previous"] == aliases(client)["champion"] - 1


@pytest.mark.slow
def test_a_rollback_that_dies_before_any_of_its_writes_is_finished_by_the_same_command(
    client: MlflowClient, chain: Chain, dying: list[int]
):
    chain.run("three", against="two")
    for writes in range(20):
        dying[0] = writes
        try:
            roll_back(NAME, reason="bad")
            break
        except KeyboardInterrupt:
            dying[0] = 10**9
            assert aliases(client)["champion"] == 3, "the last write counts"
            roll_back(NAME, reason="bad")
            assert aliases(client) == {"candidate": 3, "champion": 2, "best": 2}
            promote_by_hand(NAME, "3", yes_again=True)
            assert aliases(client) == {"candidate": 3, "champion": 3, "previous": 2, "best": 3}
    assert writes > 8


@pytest.mark.slow
def test_a_promotion_by_a_person_that_dies_before_any_of_its_writes_is_finished_by_the_same_command(
    client: MlflowClient, chain: Chain, dying: list[int]
):
    for writes in range(30):
        roll_back(NAME, reason="bad")
        dying[0] = writes
        try:
            promote_by_hand(NAME, "2", reason="good", yes_again=True)
            break
        except KeyboardInterrupt:
            dying[0] = 10**9
            assert aliases(client)["champion"] in (1, 2)
            promote_by_hand(NAME, "2", reason="good", yes_again=True)
            tags = client.get_model_version(NAME, "2").tags
            assert tags["drift.promoted_reason"] == "good" and not [tag for tag in tags if "blocked" in tag]
            assert aliases(client) == {"candidate": 2, "champion": 2, "previous": 1, "best": 2}
    assert writes > 8
