"""What was judged already, on disk: a search that is cut short goes on where it stopped."""

import hashlib
import io
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np

from skipshift.records import read_json, write_bytes, write_json
from skipshift.remedies.judging import Judged

_KEY = "key.json"


class KeptOnDisk:
    """Judged changes by name, one file each; those of another search are discarded.

    Parameters
    ----------
    folder
        Where the files lie.
    key
        What the results hang on: network, images, masks, groups and settings.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key
        file = folder / _KEY
        self._fits = file.exists() and read_json(file).get("key") == key

    def _file(self, name: str) -> Path:
        # a module's name may be too long for a file, or hold characters that files may not
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.npz"

    def get(self, name: str) -> Judged | None:
        """Return what was judged; None where it was not, or its file is broken."""
        if not self._fits:
            return None
        try:
            with np.load(self._file(name), allow_pickle=False) as kept:
                values = {f.name: kept[f.name] for f in fields(Judged)}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return Judged(**{n: v if v.ndim else v.item() for n, v in values.items()})

    def __setitem__(self, name: str, judged: Judged) -> None:
        """Keep what was judged; the first of another search takes the place of all before."""
        if not self._fits:
            for old in self._folder.glob("*.npz"):
                old.unlink()
            write_json(self._folder / _KEY, {"key": self._key})
            self._fits = True
        buffer = io.BytesIO()
        np.savez(buffer, **{f.name: getattr(judged, f.name) for f in fields(Judged)})
        write_bytes(self._file(name), buffer.getvalue())
