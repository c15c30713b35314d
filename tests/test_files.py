"""Writing: what is replaced, what is followed, and where code that was compiled lies."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from builders import Command

from mabench import files
from mabench.errors import MabenchError

POSIX = pytest.mark.skipif(os.name != "posix", reason="links, pipes, owners")


@POSIX
def test_nothing_but_a_regular_file_is_replaced(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("years of work")
    (tmp_path / "link").symlink_to(thesis)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "dangling", "folder", "pipe"):
        with pytest.raises(MabenchError, match="not a regular file"):
            files.write_text(tmp_path / name, "x")
    with pytest.raises(MabenchError, match="not a regular file"):
        files.write_text(Path("/dev/null"), "x")
    assert thesis.read_text() == "years of work" and stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert sorted(os.listdir(tmp_path)) == ["dangling", "folder", "link", "pipe", "thesis.txt"], "and nothing is left behind"


@POSIX
def test_planted_temporary_names_lead_nowhere(tmp_path: Path) -> None:
    """As another user of a shared folder could plant them: links, locks and pipes under names of this pattern."""
    thesis, target = tmp_path / "thesis.txt", tmp_path / "p.png"
    thesis.write_text("years of work")
    for number in range(os.getpid(), os.getpid() + 50):
        (tmp_path / f".p.png.{number}.partial").symlink_to(thesis)
    os.mkfifo(tmp_path / ".p.png.pipe.partial")
    held = tmp_path / ".p.png.held.partial"
    held.touch()
    with files.try_lock(held) as mine:
        assert mine
        files.write_bytes(target, b"picture")
    assert thesis.read_text() == "years of work" and target.read_bytes() == b"picture" and not target.is_symlink()


def test_what_is_written_has_the_users_usual_mode(tmp_path: Path) -> None:
    program = "import os, sys; os.umask(0o027); from pathlib import Path; from mabench import files; files.write_text(Path(sys.argv[1]), 'x')"
    subprocess.run([sys.executable, "-c", program, tmp_path / "table.md"], check=True)
    assert os.name != "posix" or stat.S_IMODE((tmp_path / "table.md").stat().st_mode) == 0o640


@POSIX
def test_a_picture_replaces_pictures_alone(mabench: Command, tmp_path: Path) -> None:
    import mabench as package

    made = Path(package.__file__).parent / "assets" / "digits_kmeans_ipc5.safetensors"
    (tmp_path / "notes.txt").write_text("precious")
    done = mabench("check", made, "--out", "notes.txt")
    assert done.returncode == 2 and "another kind" in done.stderr and (tmp_path / "notes.txt").read_text() == "precious"
    assert mabench("check", made, "--out", "/dev/null").returncode == 2 and stat.S_ISCHR(os.stat("/dev/null").st_mode)
    for _ in range(2):
        assert mabench("check", made, "--out", "a.png").returncode == 0


@POSIX
def test_compiled_code_lies_where_only_the_user_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = files.private_folder("compiled")
    assert folder == files.private_folder("compiled") and stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    with pytest.raises(MabenchError, match="only you can write to"):
        files.private_folder("compiled")
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(MabenchError, match="only you can write to"):
        files.private_folder("compiled")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    assert files.private_folder("compiled").parent == tmp_path / "t"
