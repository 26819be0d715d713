"""What the service believes of a registry that changes, is lost, or cannot be read."""

import shutil

import pytest
from small_registry import registry_of

from evenhand.errors import RegistryError
from evenhand.lifecycle.registry import Decision
from evenhand.service.advice import carry_out
from evenhand.service.production import Production


@pytest.fixture
def production(tmp_path, monkeypatch):
    monkeypatch.setattr("evenhand.service.production._REGISTRY_SECONDS", 0.0)
    return Production(str(registry_of(tmp_path, "harbor-1", "harbor-2")))


def told(production: Production, said: str) -> None:
    """Reading fails and says so, and what was known stays known."""
    with pytest.raises(RegistryError, match=said):
        production.read()
    assert (production.release.incumbent, production.release.fallback) == ("harbor-2", "harbor-1")
    assert said in production.failing


def test_a_folder_that_goes_away_is_no_empty_registry(production, tmp_path):
    (tmp_path / "registry").rename(tmp_path / "elsewhere")
    told(production, "holds no registry any more")
    with pytest.raises(RegistryError):
        carry_out(production, Decision("ann", "2026-11-25T00:00:00+00:00", ""), "harbor-2")
    assert not (tmp_path / "registry").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "registry")
    assert production.read().incumbent == "harbor-2"
    assert production.failing is None


@pytest.mark.parametrize("kept", [0, 2, 3])
def test_a_log_that_has_lost_its_end_is_refused(production, tmp_path, kept):
    for file in sorted((tmp_path / "registry" / "log").glob("*.json"))[kept:]:
        file.unlink()
    told(production, "entry 4 of the log, read before, is not there any more")


def test_another_registry_in_its_place_is_refused(production, tmp_path):
    (tmp_path / "other").mkdir()
    other = registry_of(tmp_path / "other", "harbor-8", "harbor-9", "harbor-10")
    shutil.rmtree(tmp_path / "registry")
    other.rename(tmp_path / "registry")
    told(production, "entry 4 of the log, read before, is not there any more")


def test_an_entry_that_cannot_be_read_is_told_as_such(production, tmp_path):
    """A folder in an entry's place: reading it raises an OSError for root as well."""
    entry = tmp_path / "registry" / "log" / "000004.json"
    entry.unlink()
    entry.mkdir()
    told(production, "cannot be read")


def test_what_is_decided_elsewhere_is_seen(production, tmp_path):
    again = Production(str(tmp_path / "registry"))
    carry_out(again, Decision("ann", "2026-11-25T00:00:00+00:00", ""), "harbor-2")
    assert production.release.incumbent == "harbor-1"
