"""What is in a folder: .npz files, an .npy file for each input, images, folders of images by class, or a dataset."""

from __future__ import annotations

import os
import stat
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlc.data import huggingface, npy, npz
from mlc.data.image_folder import ImageFolder
from mlc.data.images import ENDINGS
from mlc.data.sources import ArraySource, JoinedSource, Source
from mlc.errors import DataError
from mlc.grammar.images import Images
from mlc.types import InputSpec

FORMS = (
    "give .npz files, or an .npy file for each input, or images, or a folder of images for each class, "
    "or what save_to_disk of datasets writes"
)

SHOWN = 5
"""Folders that an error names."""


@dataclass(frozen=True)
class Listing:
    """Names of the files and folders in a folder, sorted; hidden ones are left out."""

    files: tuple[str, ...]
    folders: tuple[str, ...]

    @property
    def endings(self) -> set[str]:
        """The endings of the files, in small letters."""
        return {Path(name).suffix.lower() for name in self.files}

    def __str__(self) -> str:
        endings = Counter(Path(name).suffix.lower() or "without an ending" for name in self.files)
        parts = [", ".join(f"{count} {ending}" for ending, count in endings.most_common())] if endings else []
        if self.folders:
            parts.append(f"folders ({', '.join(self.folders[:SHOWN])}{', ...' if len(self.folders) > SHOWN else ''})")
        return " and ".join(parts) or "nothing in it"


def open_folder(
    folder: Path, inputs: Sequence[InputSpec], outputs: Sequence[str], images: Images | None = None
) -> Source:
    """Open the samples of a folder. Raises DataError that lists what is in it where that is no form of data."""
    name = folder.resolve().name
    if huggingface.is_dataset(folder):
        return huggingface.open_dataset(folder, inputs, images)
    found = listed(folder)
    if found.endings == {".npz"} and not found.folders:
        return JoinedSource(
            name, [npz_source(folder / file, inputs, outputs, f"{name}/{file}") for file in found.files]
        )
    if found.endings == {".npy"} and not found.folders:
        return npy_source(name, {Path(file).stem: folder / file for file in found.files}, inputs, outputs)
    if found.endings and found.endings <= set(ENDINGS) and not found.folders:
        return ImageFolder(folder, found.files, (), inputs, images)
    if found.folders and not found.files:
        return ImageFolder(folder, _of_classes(folder, found.folders), found.folders, inputs, images)
    raise DataError(f"the folder {folder} has {found}", FORMS)


def npz_source(path: Path, inputs: Sequence[InputSpec], outputs: Sequence[str], name: str = "") -> ArraySource:
    """Return the samples of an .npz file."""
    return ArraySource(name or path.name, npz.read_headers(path), partial(npz.read_rows, path), inputs, outputs)


def npy_source(name: str, files: dict[str, Path], inputs: Sequence[InputSpec], outputs: Sequence[str]) -> ArraySource:
    """Return the samples of .npy files by the name of their array."""
    headers = {key: npy.read_header(path) for key, path in files.items()}
    return ArraySource(name, headers, partial(npy.read_rows, files), inputs, outputs)


def listed(folder: Path) -> Listing:
    """Look into a folder; links are followed. Raises DataError where something is neither a file nor a folder."""
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _hidden(entry):
                    continue
                if not (entry.is_dir() or entry.is_file()):
                    raise DataError(f"{folder / entry.name} is neither a file nor a folder", "remove it")
                (folders if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read: {error.strerror}", "check its permissions") from error
    return Listing(tuple(sorted(files)), tuple(sorted(folders)))


def _hidden(entry: os.DirEntry[str]) -> bool:
    """Whether a name begins with a dot; on Windows, whether it is marked so, as Explorer's own files are."""
    if sys.platform == "win32" and entry.stat(follow_symlinks=False).st_file_attributes & stat.FILE_ATTRIBUTE_HIDDEN:
        return True
    return entry.name.startswith(".")


def _of_classes(folder: Path, classes: Sequence[str]) -> list[str]:
    """Return the images of each class, as paths below the folder. Raises DataError where a class has other things."""
    files = []
    for name in classes:
        found = listed(folder / name)
        if found.folders or not found.endings or not found.endings <= set(ENDINGS):
            raise DataError(f"the folder {folder / name} has {found}, and that of a class only images", FORMS)
        files += [f"{name}/{file}" for file in found.files]
    return files
