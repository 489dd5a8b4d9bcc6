"""Files that a process writes are for the user that it runs as, and for nobody else."""

import contextlib
import os
from pathlib import Path

OWNER_ONLY = 0o077


def write_for_owner_only() -> None:
    """From now on no file that this process makes can be read by other users of the machine."""
    os.umask(OWNER_ONLY)


def private_folder(folder: Path) -> Path:
    """The folder, made if it is not there, that other users cannot look into.

    One that an earlier release left open is closed, if it is ours.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(PermissionError):
        folder.chmod(0o700)
    return folder


def private_file(path: Path) -> Path:
    """The file, made if it is not there, that other users cannot read."""
    path.touch(mode=0o600)
    with contextlib.suppress(PermissionError):
        path.chmod(0o600)
    return path
