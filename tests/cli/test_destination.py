"""What a command is told to write never destroys what it reads, and is refused before any work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evenhand.cli.destination import require_file, require_page
from evenhand.errors import UserError

ROWS = "".join(
    json.dumps({"prompt": f"Question {i}?", "chosen": f"Answer {i}.", "rejected": f"No {i}."}) + "\n" for i in range(5)
)


@pytest.mark.parametrize(("report", "words"), [("pairs.json", "ends in .html"), ("pairs.html", "would be overwritten")])
def test_an_audit_never_overwrites_what_it_reads(tmp_path: Path, report: str, words: str) -> None:
    data = tmp_path / "pairs.json"
    data.write_text("[" + ",".join(ROWS.splitlines()) + "]")
    before = data.read_bytes()
    command = [sys.executable, "-m", "evenhand", "audit", "pairs.json", "--report", report]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert data.read_bytes() == before
    assert [own.name for own in tmp_path.iterdir()] == ["pairs.json"]


def test_an_input_by_another_name_is_still_the_input(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text(ROWS)
    (tmp_path / "link.jsonl").symlink_to(data)
    with pytest.raises(UserError, match=r"link.jsonl is read by this command"):
        require_file(tmp_path / "link.jsonl", (None, "builtin:smollm2-135m", str(data)))
    require_file(tmp_path / "other.jsonl", (data,))


def test_a_folder_and_a_place_below_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"is a folder; give the name of a file\.$"):
        require_file(tmp_path, ())
    with pytest.raises(UserError, match=r"page.html cannot be written, since .*file is a file; choose another name\.$"):
        require_page(tmp_path / "file" / "sub" / "page.html", ())
    require_page(tmp_path / "new" / "page.html", ())
