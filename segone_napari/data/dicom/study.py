"""The series of a DICOM file, folder, study or CD: listed from headers, chosen, and read.

A listing keeps no name, birth date or number of a patient. Messages tell slices by their place in
the series, since scanners write patients' names into file names.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from segone_napari.data.choices import ManySeries, choose_volume
from segone_napari.data.dicom import pixels
from segone_napari.data.dicom.headers import Header, Plane, read_header
from segone_napari.data.dicom.stacks import NotAVolume, Stack, arrange, plane_name, split
from segone_napari.data.doubts import doubts_about_size, doubts_about_values
from segone_napari.runtime import BadInput, Progress, no_progress
from segone_napari.volume import Grid, Volume

# Someone dropped a whole disk.
_MOST_FILES = 200_000
# What a localizer is called; it is offered after every other series.
_LOCALIZER = re.compile(r"local|scout|survey|3.?pl|plan_?loc|aahead|smart.?brain", re.IGNORECASE)
_FLAIR = re.compile(r"flair|dark.?fluid|tirm|\bir.?fse", re.IGNORECASE)
_T1 = re.compile(
    r"t1|mp.?rage|bravo|spgr|fspgr|\btfe|mp2rage|vibe|\bthrive|space.?t1", re.IGNORECASE
)
_T2 = re.compile(r"t2|\bpd\b|proton|tse|fse|ciss|fiesta|\bspace", re.IGNORECASE)
_NOT_ANATOMICAL = re.compile(
    r"dwi|dti|diff|\badc|trace|\bfa\b|perf|\basl|\bcbf|\bcbv|\bmtt|bold|fmri|rest|\bep2d|swi|swan|"
    r"\btof|mra\b|mrv|angio|field.?map|phase|\bmip|spectro|\bmrs|b1|t2\*|t2star|t1.?map|t2.?map",
    re.IGNORECASE,
)
KINDS = ("T1", "FLAIR", "T2", "other", "localizer")
"""What a series seems to be, in the order in which series are offered."""


@dataclass(frozen=True, eq=False)
class Series:
    """One thing to open: a series, or the part of one that makes a volume.

    Attributes
    ----------
    number : its place in the list, counted from 1: what ``--series`` takes.
    uid : SeriesInstanceUID; parts of one series share it.
    key : the UID, and for one of several parts its number after a slash ("1.2.3/2"): what a
        program remembers to open the same again.
    name : its description, and which part of the series it is.
    kind : one of `KINDS`.
    modality : "MR", "CT" ...
    patient : 1 for the first patient in the folder, 2 for the second ...
    stack : its planes and their grid.
    remarks : sentences on what is unusual, apart from the stack's own.
    """

    number: int
    uid: str
    key: str
    name: str
    kind: str
    modality: str
    patient: int
    stack: Stack
    remarks: tuple[str, ...] = ()

    @property
    def grid(self) -> Grid:
        """Where the voxels will lie."""
        return Grid(self.stack.shape, self.stack.affine)

    @property
    def matrix(self) -> str:
        """Columns × rows."""
        columns, rows, _ = self.stack.shape
        return f"{columns}×{rows}"

    @property
    def spacing(self) -> str:
        """Voxel size in mm, in words."""
        return "×".join(f"{size:.2f}".rstrip("0").rstrip(".") for size in self.grid.spacing)

    @property
    def slices(self) -> int:
        """How many slices a volume has."""
        return self.stack.count

    @property
    def volumes(self) -> int:
        """How many volumes there are in time."""
        return len(self.stack.volumes)

    @property
    def plane(self) -> str:
        """The anatomical plane of its slices."""
        return plane_name(self.stack.volumes[0][0])

    def files(self, volume: int = 0) -> tuple[Path, ...]:
        """The files of a volume's slices, in the order of its slices."""
        return tuple(plane.path for plane in self.stack.volumes[volume])


@dataclass(frozen=True, eq=False)
class Study:
    """What was found in a folder.

    Attributes
    ----------
    path : what was opened.
    series : what can be opened, the anatomical T1 and FLAIR first.
    not_listed : what can't be opened and why, in words.
    remarks : sentences that a person must know whichever series they choose.
    """

    path: Path
    series: tuple[Series, ...]
    not_listed: tuple[str, ...] = ()
    remarks: tuple[str, ...] = field(default=())

    def choose(self, which: int | str | None = None) -> Series:
        """Return a series by its number in the list or its UID; without either, the only one.

        Raises
        ------
        BadInput
            If there is none, or no such one.
        ManySeries
            If there are several to choose from.
        """
        if not self.series:
            raise BadInput(
                f"{self.path} holds no volume that can be opened: {_joined(self.not_listed)}; "
                "choose the folder of a whole series of MR images"
            )
        if which is None:
            if len(self.series) > 1:
                raise ManySeries(self, f"{self.path} holds {len(self.series)} series")
            return self.series[0]
        wanted = str(which).strip()
        fitting = [s for s in self.series if wanted in (str(s.number), s.key)]
        fitting = fitting or [s for s in self.series if wanted == s.uid]
        if not fitting:
            raise ManySeries(self, f"there is no series {which} in {self.path}")
        if len(fitting) > 1:
            raise ManySeries(self, f"the series {which} has {len(fitting)} parts")
        return fitting[0]


def open_study(path: str | os.PathLike[str], *, progress: Progress = no_progress) -> Study:
    """List the series of a folder with all that is in it, or the series that a file belongs to.

    Headers only are read. A DICOMDIR stands for the folder that it lies in.

    Raises
    ------
    BadInput
        If there is no DICOM file.
    """
    chosen = Path(path)
    headers, damaged = _headers(chosen, progress)
    if chosen.is_file() and not _is_directory(chosen):
        own = read_header(chosen)
        if own is None or own.problem == "damaged file" or not own.series_uid:
            raise BadInput(f"{chosen} is no DICOM image, or truncated; copy or export it again")
        headers = [h for h in headers if h.series_uid == own.series_uid]
    if not headers:
        raise BadInput(_no_images(chosen, damaged))
    patients = _patients(headers)
    found, not_listed = _found(headers, patients)
    remarks = []
    if len(patients) > 1:
        remarks.append(
            f"this folder holds images of {len(patients)} patients; make sure that this is the "
            "right one"
        )
    if damaged:
        remarks.append(_counted(damaged, "damaged file was", "damaged files were") + " left out")
    return Study(chosen, _ranked(found), tuple(not_listed), tuple(remarks))


def read_series(study: Study, series: Series, volume: int | None = None) -> Volume:
    """Read the pixels of a series.

    Raises
    ------
    ManyVolumes
        If there are several volumes and `volume` isn't given, or there is no such one.
    BadInput
        If the pixels can't be decoded, or the image would be larger than any scanner.
    """
    index = choose_volume(f"the series '{series.name}'", series.volumes, volume)
    data, stack = pixels.read_stack(series.stack, index)
    warnings = [*study.remarks, *series.remarks, *stack.warnings]
    if series.modality not in ("MR", ""):
        warnings.append(f"this series is {series.modality}, not MR; results may be wrong")
    lowest, highest = data.min(), data.max()
    if lowest == highest:
        raise BadInput(
            f"the series '{series.name}' shows nothing: every voxel is {float(lowest):g}; "
            "choose another series"
        )
    grid = Grid(stack.shape, stack.affine)
    warnings += [*doubts_about_size(series.name, grid), *doubts_about_values(data)]
    return Volume(data, grid, series.name, tuple(dict.fromkeys(warnings)))


def _no_images(path: Path, damaged: int) -> str:
    what = "is a folder without DICOM images" if path.is_dir() else "holds no DICOM image"
    lost = f" ({_counted(damaged, 'damaged file', 'damaged files')})" if damaged else ""
    return f"{path} {what}{lost}; choose one image file, or the folder of a scanner's files"


# --- finding files -------------------------------------------------------------------------------


def _is_directory(path: Path) -> bool:
    return path.name.upper().startswith("DICOMDIR")


def _headers(path: Path, progress: Progress) -> tuple[list[Header], int]:
    """Read the headers of the files in question; return them, and how many files are damaged."""
    files = list(_files(path))
    headers, damaged = [], 0
    for n, file in enumerate(files):
        if n % 50 == 0:
            progress(n, len(files))
        header = read_header(file)
        if header is None or header.problem == "directory":
            continue
        if header.problem == "damaged file":
            damaged += 1
        else:
            headers.append(header)
    progress(len(files), len(files))
    return headers, damaged


def _files(path: Path) -> Iterator[Path]:
    """Give the files below a folder; of a file, those beside it."""
    if path.is_file() and not _is_directory(path):
        yield from (Path(entry) for entry in sorted(path.parent.iterdir()) if entry.is_file())
        return
    folder = path.parent if path.is_file() else path
    count = 0
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            count += 1
            if count > _MOST_FILES:
                raise BadInput(
                    f"{path} holds more than {_MOST_FILES} files; choose the folder of one study"
                )
            file = Path(parent, name)
            if file.is_file():
                yield file


# --- series --------------------------------------------------------------------------------------


def _patients(headers: Sequence[Header]) -> dict[str, int]:
    """Number the patients in the order in which they come."""
    fingerprints = dict.fromkeys(header.patient for header in headers if header.planes)
    return {fingerprint: n for n, fingerprint in enumerate(fingerprints, start=1)}


def _found(headers: Sequence[Header], patients: dict[str, int]) -> tuple[list[Series], list[str]]:
    """Make a series of each part that is a volume, and a sentence of what is not."""
    groups: dict[tuple[str, str, str], list[Header]] = defaultdict(list)
    for header in headers:
        if header.planes:
            groups[header.patient, header.study_uid, header.series_uid].append(header)
    found, not_listed = [], list(_not_images(headers))
    for group in groups.values():
        parts, problems = _parts(group, patients[group[0].patient])
        found += parts
        not_listed += problems
    return found, not_listed


def _not_images(headers: Sequence[Header]) -> Iterator[str]:
    for problem, count in Counter(h.problem for h in headers if h.problem).items():
        plural = "files without an image" if problem == "file without an image" else f"{problem}s"
        if problem.startswith("picture"):
            plural = problem.replace("picture", "pictures")
        yield _counted(count, problem, plural)


def _parts(headers: Sequence[Header], patient: int) -> tuple[list[Series], list[str]]:
    """Divide a series into parts, and arrange each."""
    first = headers[0]
    name = first.description or f"series {first.series_number}"
    parts, problems, too_thin = [], [], 0
    divided = split(_without_repeats(headers))
    for n, (part, planes) in enumerate(divided, start=1):
        try:
            stack = arrange(planes)
        except NotAVolume as error:
            too_thin += len(planes) == 1
            problems.append(f"'{_named(name, part)}': {error}")
            continue
        remarks = tuple(dict.fromkeys(remark for h in headers for remark in h.remarks))
        remarks += tuple(_gaps(stack, first))
        if len(divided) > 1:
            remarks += (f"its series was divided into {len(divided)} parts; this is '{part}'",)
        parts.append(
            Series(
                number=0,  # known when all are sorted
                uid=first.series_uid,
                key=f"{first.series_uid}/{n}" if len(divided) > 1 else first.series_uid,
                name=_named(name, part),
                kind=_kind(first, stack),
                modality=first.modality,
                patient=patient,
                stack=stack,
                remarks=remarks,
            )
        )
    if too_thin == len(divided) > 1:
        planes_named = " and ".join(dict.fromkeys(plane_name(p[0]) for _, p in divided))
        problems = [f"'{name}': a localizer, single slices in different planes ({planes_named})"]
    return parts, problems


def _without_repeats(headers: Sequence[Header]) -> list[Plane]:
    """Return the planes of a series; a file that was copied twice counts once."""
    planes: dict[object, Plane] = {}
    for header in headers:
        for plane in header.planes:
            key = (header.instance_uid or str(plane.path), plane.frame)
            planes.setdefault(key, plane)
    return list(planes.values())


def _named(name: str, part: str) -> str:
    return f"{name}, {part}" if part else name


def _gaps(stack: Stack, header: Header) -> Iterator[str]:
    """Say it where slices lie as if every second had been left out."""
    claimed = header.spacing_between
    if claimed > 0 and not stack.warnings and stack.step > 1.5 * claimed:
        yield (
            f"slices lie {stack.step:.2f} mm apart but the header says {claimed:.2f} mm: "
            "some may be missing"
        )


def _kind(header: Header, stack: Stack) -> str:
    """Guess what a series is, by its name and, if that says nothing, by its timing."""
    name = header.description
    if _LOCALIZER.search(name) or "LOCALIZER" in header.image_type:
        return "localizer"
    is_derived = {"DERIVED", "PROJECTION IMAGE", "MPR"} & set(header.image_type[:3])
    if is_derived or _NOT_ANATOMICAL.search(name) or header.modality not in ("MR", ""):
        return "other"
    if len(stack.volumes) > 1:
        return "other"
    for kind, pattern in (("FLAIR", _FLAIR), ("T1", _T1), ("T2", _T2)):
        if pattern.search(name):
            return kind
    return _kind_by_timing(header)


def _kind_by_timing(header: Header) -> str:
    repetition, echo, inversion = header.times_ms
    if inversion > 1500 and echo > 60:
        return "FLAIR"
    if 0 < echo < 30 and (repetition < 1200 or 400 < inversion < 1500):
        return "T1"
    return "T2" if echo > 60 and repetition > 2000 else "other"


def _ranked(found: Sequence[Series]) -> tuple[Series, ...]:
    """Sort by kind, within it the finest first, and number the list."""
    ordered = sorted(
        found,
        key=lambda s: (s.patient, KINDS.index(s.kind), -min(s.slices, 60), s.grid.voxel_volume_ml),
    )
    return tuple(replace(series, number=n) for n, series in enumerate(ordered, start=1))


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _joined(words: Sequence[str]) -> str:
    shown = [*words[:6], *(["..."] if len(words) > 6 else [])]
    return "; ".join(shown) or "nothing"
