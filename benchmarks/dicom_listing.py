"""How long it takes to list the series of a study: headers only, no pixels.

    python benchmarks/dicom_listing.py [--files 5000] [--series 25]

Makes a study in a temporary folder, with the private headers of 60 kB that Siemens writes, lists
it twice (the second time, the files are in the system's cache as the first) and prints the times:
what passed, and what the processor worked, which other programs on the machine change less.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from segone_napari.data.dicom.study import open_study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--series", type=int, default=25)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_study(Path(folder), args.files, args.series)
        for _ in range(2):
            start, worked = time.perf_counter(), time.process_time()
            study = open_study(folder)
            seconds, worked = time.perf_counter() - start, time.process_time() - worked
            print(
                f"{args.files} files, {len(study.series)} series: {seconds:.1f} s, "
                f"of the processor's time {worked:.1f} s"
            )


def make_study(folder: Path, files: int, series: int) -> None:
    """Write `series` folders of equally many slices; of each, only what differs is set anew."""
    slices = files // series
    study_uid = generate_uid()
    for number in range(1, series + 1):
        image = _image(study_uid, number)
        place = folder / f"SE{number:06}"
        place.mkdir()
        for k in range(slices):
            image.InstanceNumber = k + 1
            image.SOPInstanceUID = generate_uid()
            image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
            image.ImagePositionPatient = ["-120", "-120", f"{k:.3f}"]
            image.SliceLocation = f"{k:.3f}"
            image.save_as(place / f"IM{k:06}", enforce_file_format=True)


def _image(study_uid: str, number: int) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = MRImageStorage
    image.SOPClassUID, image.Modality = MRImageStorage, "MR"
    image.StudyInstanceUID, image.SeriesInstanceUID = study_uid, generate_uid()
    image.FrameOfReferenceUID = generate_uid()
    image.PatientName, image.PatientID = "Phantom", "phantom"
    image.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    image.SeriesNumber, image.SeriesDescription = number, f"t1_mprage_{number}"
    image.RepetitionTime, image.EchoTime, image.InversionTime = "2300", "2.9", "900"
    image.PixelSpacing, image.SliceThickness = ["0.9375", "0.9375"], "1"
    image.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    image.Rows = image.Columns = 64
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelRepresentation = 0
    image.PixelData = np.zeros((64, 64), np.uint16).tobytes()
    for group in (0x0019, 0x0029, 0x0051):
        block = image.private_block(group, "SIEMENS CSA HEADER", create=True)
        for element in range(0x08, 0x18):
            block.add_new(element, "LO", "something of the maker's")
    image.private_block(0x0029, "SIEMENS CSA HEADER").add_new(0x20, "OB", bytes(60_000))
    # As many elements more as a scanner writes.
    for n in range(60):
        image.add_new((0x0018, 0x9000 + n), "LO", "a parameter of the sequence")
    return image


if __name__ == "__main__":
    main()
