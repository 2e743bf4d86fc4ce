"""What the panel keeps of one image while it is open, and says of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from napari.layers import Image

from segone_napari.gui.imagework import Entry, ImageWork
from segone_napari.gui.layers import LayerImage
from segone_napari.gui.review import Review, is_doubt_layer
from segone_napari.gui.rows import Shown
from segone_napari.project import Case


@dataclass(eq=False)
class OpenImage:
    """An image with its voxels and where they lie; another one when these change.

    Attributes
    ----------
    layer, values : as napari shows it, and what is in it. The volume is the same object as long
        as nothing in it changes, so that a session recognises it.
    is_opening : whether its earlier work is being looked for or read.
    earlier : work of before, as long as the person has not said whether to go on with it.
    work, review : its rows and edits, and their doubt; None until the work is open.
    refused : what was asked and isn't there, or wasn't understood.
    kept : by row, new results that wait because the row's mask was corrected by hand.
    is_gone : whether the layer was closed, or says something else by now.
    """

    layer: Image
    values: LayerImage
    is_opening: bool = False
    earlier: Case | None = None
    work: ImageWork | None = None
    review: Review | None = None
    refused: list[Shown] = field(default_factory=list)
    kept: dict[int, Entry] = field(default_factory=dict)
    is_gone: bool = False

    def says(self, values: LayerImage) -> bool:
        """Whether the layer still says the same."""
        return (
            self.values.data is values.data
            and self.values.layout == values.layout
            and self.values.grid.is_same_as(values.grid)
        )

    @property
    def facts(self) -> str:
        """Spacing and orientation, for the header."""
        values = self.values
        spacing = " × ".join(f"{mm:.3g}" for mm in values.grid.spacing)
        facts = [f"{spacing} mm", values.grid.orientation if values.is_placed else "axes unknown"]
        if values.is_placed and values.obliquity_deg > 0.5:
            facts.append(f"oblique {values.obliquity_deg:.0f}°")
        return " · ".join(facts)

    @property
    def shown(self) -> list[Shown]:
        """What its rows say, in order."""
        work = self.work
        if work is None:
            return list(self.refused)
        there = [
            Shown(
                row.name,
                row.prompt,
                row.state,
                row.colour,
                work.volume_ml(row.id),
                row.confidence,
                row.id,
                is_edited=work.is_edited(row.id),
                can_be_shown=row.state == "not found" and work.volume_ml(row.id) > 0,
                warnings=work.warnings.get(row.id, ()),
                is_kept=row.id in self.kept and row.state == "draft",
            )
            for row in work.rows
        ]
        return [*there, *self.refused]

    def take_refused(self, name: str) -> Shown | None:
        """Forget what was refused under this name, and return it."""
        found = next((one for one in self.refused if one.name == name), None)
        if found is not None:
            self.refused.remove(found)
        return found


def is_image(layer: Any) -> bool:
    """Whether a layer is an image that can be chosen."""
    return isinstance(layer, Image) and not is_doubt_layer(layer)


def what_covers(viewer: Any, image: Image) -> str:
    """What to say if another image hides this one on the canvas; or nothing."""
    if image not in viewer.layers:
        return ""
    for other in list(viewer.layers)[viewer.layers.index(image) + 1 :]:
        is_see_through = str(other.blending) in ("additive", "minimum")
        if is_image(other) and other.visible and other.opacity > 0.5 and not is_see_through:
            return (
                f"'{other.name}' lies over this image on the canvas: hide it, or move it "
                "down in napari's list, to see this one"
            )
    return ""
