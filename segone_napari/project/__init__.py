"""A person's work on disk: their masks with every edit, their corrections, and what was asked.

Knows nothing of Qt, napari or torch, and starts no threads. Arrays are in the volume's own order
(i, j, k) everywhere; masks are uint8, 0 is outside. How a window uses it::

    project = Project(folder)                        # made when something is first written
    image = ImageRef.of(volume, path)                # a checksum of all voxels: ask in a worker
    case = project.case(image)                       # where the work on this image is kept
    if case.was_interrupted: ...                     # offer to go on, or case.set_aside()
    history = EditHistory.open(case, on_problem=say) # as it was left, undo and redo included
    history = EditHistory(volume.grid.shape)         # or in memory only

    change = history.put([(row, mask), ...])         # new rows (id 0), or a new result of old rows
    change = history.record(row_id, atoms)           # what napari's brush has already painted
    change = history.edit(row_id, values, kind="repair", box=box)     # new voxels for a row
    change = history.set_row(replace(row, state="accepted"))          # other facts; locks it
    change = history.remove(row_id)
    change = history.undo()                          # None when there is nothing left to undo
    change = history.redo()

    history.rows, history.masks[row_id]              # what there is now
    history.undo_count, history.undo_words           # "brush on left hippocampus"
    history.add_prompt(text), history.note(key, value)       # kept as well; no undo
    history.sync()                                   # within a second of an edit, in a worker
    history.is_saved, history.problem, history.saved_at
    history.close()

**Masks are changed in place.** `put` adopts the array that it is given, so a layer that shows the
same memory (also through a flipped or transposed view) needs only a refresh of
``change.boxes[row_id]``. ``change.added`` and ``change.removed`` say which rows came and went.
A row that is put again keeps its array; a row that undo or redo brings back has a new one.

**The brush.** ``atoms`` are napari's own: the ``value`` of a Labels layer's ``paint`` event is a
list of (indices, before, after); turn the indices into the volume's axis order first. Leave
napari's undo aside: `undo` here covers all rows, slices and kinds of edit, and outlives a crash.

**Locks.** An accepted row refuses `put`, `record`, `edit` and `remove` with `RowLocked`. What a
brush had already painted on it is put back first, and ``error.change`` says where.

**What is saved.** Every edit is written before the call returns, and so survives the death of the
program. `sync` brings it through the system's cache to the disk and now and then writes a snapshot
that makes opening fast; it may run in any thread beside edits. ``EditHistory.open(...,
sync_at_once=True)`` does it in every call, for scripts.

**When the disk is full or read-only**, the edit holds in memory, ``is_saved`` is False and
`problem` says why in a sentence. ``on_problem`` is called with it (a `NotSaved`) once, not for
every edit; without ``on_problem`` it is raised, once, after the edit has been done. Each `sync`
tries again to write what is missing, and ``is_saved`` is True again when that worked.

`close` says with False that some edits never came to the disk: warn before the window goes.

Corrections, which the model learns from, and the log of trainings::

    project.add_correction("left hippocampus", image, mask, axis=2, slices=(40, 52))
    project.corrections()                            # .usable and .problems
    project.log("train", version=1, used=True)
"""

from segone_napari.project.case import Case
from segone_napari.project.corrections import Correction, Corrections, merge_corrections
from segone_napari.project.folder import Project
from segone_napari.project.history import EditHistory
from segone_napari.project.journal import NotSaved
from segone_napari.project.values import Change, ImageRef, Kind, Row, RowLocked, State

__all__ = [
    "Case",
    "Change",
    "Correction",
    "Corrections",
    "EditHistory",
    "ImageRef",
    "Kind",
    "NotSaved",
    "Project",
    "Row",
    "RowLocked",
    "State",
    "merge_corrections",
]
