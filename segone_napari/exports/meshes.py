"""Surfaces of masks as triangles in RAS+ mm: STL, PLY, GLB, VTK.

The surface encloses the mask's own volume. 3D Slicer takes a mesh for LPS unless the file says
otherwise, so STL, PLY and VTK files carry its mark "SPACE=RAS".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import marching_cubes
from trimesh.exchange.gltf import export_glb
from trimesh.exchange.ply import export_ply
from trimesh.exchange.stl import export_stl

from segone_napari.exports.content import Content, Segment, numbered_names
from segone_napari.runtime import BadInput

SPACE_MARK = "SPACE=RAS"

_BLUR_VOXELS = 0.8
_MARGIN = 4
# The share of the mask's volume by which the surface's may differ, and how long it is looked for.
_TOLERANCE = 0.002
_MOST_STEPS = 12
_LAYERS_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Surface:
    """A closed surface; both arrays are empty for an empty mask.

    Attributes
    ----------
    vertices : (v, 3) float64, RAS+ mm.
    faces : (f, 3) int64, indices of vertices, counterclockwise as seen from outside.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]

    @property
    def volume_mm3(self) -> float:
        """The volume that it encloses."""
        a, b, c = (self.vertices[self.faces[:, n]] for n in range(3))
        return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6.0)

    @property
    def area_mm2(self) -> float:
        """The area of all triangles."""
        a, b, c = (self.vertices[self.faces[:, n]] for n in range(3))
        return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2.0)


def surface_of(segment: Segment) -> Surface:
    """Find the surface of a mask: a little smoothed, and as large inside as the mask's voxels.

    Marching cubes on a mask of zeros and ones cuts off corners, up to a quarter of a small
    structure. Here it runs on the mean of the mask and its blurred self, in which every voxel
    inside is above and every voxel outside is below one half, so that no part is lost; and the
    level is moved until the surface encloses the voxels' volume.
    """
    inside = segment.inside
    if not inside.any():
        return Surface(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64))
    # 1. The box of the mask with a margin, so that the surface closes at the image's border.
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    mask = np.pad(inside[box].astype(np.float32), _MARGIN)
    field = 0.5 * mask + 0.5 * ndimage.gaussian_filter(mask, _BLUR_VOXELS)
    # 2. In voxels, where the volume wanted is their number.
    vertices, faces = level_surface(field, int(mask.sum()))
    # 3. Into the patient; a grid of the other handedness turns triangles inside out.
    start = np.array([bounds.start for bounds in box]) - _MARGIN
    world = nib.affines.apply_affine(segment.grid.affine, vertices + start)
    if np.linalg.det(segment.grid.affine[:3, :3]) < 0:
        faces = faces[:, ::-1]
    return Surface(world, np.ascontiguousarray(faces, dtype=np.int64))


def level_surface(
    field: NDArray[np.float32], voxels: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Find the level at which a field encloses a volume.

    Parameters
    ----------
    field : (i, j, k), highest inside and 0 at its border.
    voxels : the volume that is wanted, in voxels.

    Returns
    -------
    vertices (v, 3), in voxels, and faces (f, 3), counterclockwise as seen from outside.
    """
    highest = float(field.max())
    low, high = 0.02 * highest, 0.98 * highest  # a lower level encloses more
    level = min(0.5, highest / 2)
    for _ in range(_MOST_STEPS):
        vertices, faces = _surface_at(field, level)
        volume = Surface(vertices, faces).volume_mm3
        if abs(volume / voxels - 1.0) < _TOLERANCE:
            break
        low, high = (level, high) if volume > voxels else (low, level)
        level = (low + high) / 2
    return _without_seams(vertices, faces)


def _surface_at(
    field: NDArray[np.float32], level: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Marching cubes, a few layers at a time: it lets no other thread work, and a window waits.

    Vertices between two such blocks come twice.
    """
    vertices, faces, count = [np.zeros((0, 3))], [np.zeros((0, 3), dtype=np.int64)], 0
    for first in range(0, len(field) - 1, _LAYERS_AT_ONCE):
        block = field[first : first + _LAYERS_AT_ONCE + 1]
        if not block.min() < level < block.max():
            continue
        own, own_faces, _, _ = marching_cubes(block, level, gradient_direction="ascent")
        vertices.append(own.astype(np.float64) + np.array([first, 0, 0]))
        faces.append(own_faces.astype(np.int64) + count)
        count += len(own)
    return np.concatenate(vertices), np.concatenate(faces)


def _without_seams(
    vertices: NDArray[np.float64], faces: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Join the vertices that come twice between two blocks of layers."""
    seam = np.flatnonzero(vertices[:, 0] % _LAYERS_AT_ONCE == 0)
    _, chosen, which = np.unique(
        vertices[seam].round(4), axis=0, return_index=True, return_inverse=True
    )
    stands_for = np.arange(len(vertices))
    stands_for[seam] = seam[chosen[which.ravel()]]
    kept, renumbered = np.unique(stands_for, return_inverse=True)
    return vertices[kept], renumbered.ravel()[faces]


# --- files --------------------------------------------------------------------------------------


def write_stl(content: Content, path: Path) -> None:
    """Write the surface of the only segment as a binary STL file.

    Raises
    ------
    BadInput
        If there are several segments (STL can't tell them apart), or the mask is empty.
    """
    if len(content.segments) > 1:
        raise BadInput(
            f"an STL file holds one mesh, and there are {len(content.segments)} structures; "
            "name a folder instead of a file, or write .glb or .ply"
        )
    data = export_stl(_as_trimesh(content.segments[0]))
    # The first 80 bytes are free for remarks, but must not begin with "solid".
    path.write_bytes(f"segone-napari {SPACE_MARK}".encode().ljust(80) + data[80:])


def write_ply(content: Content, path: Path) -> None:
    """Write the surfaces of all segments as one binary PLY file, each in its colour.

    Raises
    ------
    BadInput
        If all masks are empty.
    """
    whole = trimesh.util.concatenate([mesh for _, mesh in _meshes(content)])
    data = export_ply(whole, vertex_normal=False)
    first, rest = data.split(b"\n", 1)
    path.write_bytes(first + b"\n" + _after_format(rest))


def write_glb(content: Content, path: Path) -> None:
    """Write the surfaces of all segments as one GLB file, a named object for each.

    Raises
    ------
    BadInput
        If all masks are empty.
    """
    scene = trimesh.Scene()
    for name, mesh in _meshes(content):
        scene.add_geometry(mesh, geom_name=name, node_name=name)
    scene.metadata["space"] = "RAS, mm"
    path.write_bytes(export_glb(scene))


def write_vtk(content: Content, path: Path) -> None:
    """Write the surfaces of all segments as one legacy VTK file of polygons.

    Each triangle has the number of its segment, from 1, in the array ``label``.

    Raises
    ------
    BadInput
        If all masks are empty.
    """
    numbers = [n for n, one in enumerate(content.segments, start=1) if one.inside.any()]
    meshes = [mesh for _, mesh in _meshes(content)]
    whole = trimesh.util.concatenate(meshes)
    assert isinstance(whole, trimesh.Trimesh)
    labels = np.repeat(numbers, [len(mesh.faces) for mesh in meshes])
    points, faces = whole.vertices, whole.faces
    with path.open("wb") as stream:
        stream.write(f"# vtk DataFile Version 3.0\nsegone-napari {SPACE_MARK}\n".encode())
        stream.write(f"BINARY\nDATASET POLYDATA\nPOINTS {len(points)} float\n".encode())
        stream.write(points.astype(">f4").tobytes())  # the format is big-endian everywhere
        stream.write(f"\nPOLYGONS {len(faces)} {4 * len(faces)}\n".encode())
        corners = np.full((len(faces), 1), 3)
        stream.write(np.hstack([corners, faces]).astype(">i4").tobytes())
        head = f"\nCELL_DATA {len(faces)}\nSCALARS label int 1\nLOOKUP_TABLE default\n"
        stream.write(head.encode())
        stream.write(labels.astype(">i4").tobytes() + b"\n")


def write_folder(content: Content, folder: Path, ending: str) -> None:
    """Write one file a segment that is not empty: ``01_left-hippocampus.stl`` and so on.

    Raises
    ------
    BadInput
        If all masks are empty.
    """
    _meshes(content)
    write: Callable[[Content, Path], None] = {
        ".stl": write_stl,
        ".ply": write_ply,
        ".glb": write_glb,
        ".vtk": write_vtk,
    }[ending]
    for name, segment in zip(numbered_names(content.names), content.segments, strict=True):
        if segment.inside.any():
            write(content.only(segment), folder / f"{name}{ending}")


write_stl_folder = partial(write_folder, ending=".stl")
write_ply_folder = partial(write_folder, ending=".ply")
write_glb_folder = partial(write_folder, ending=".glb")
write_vtk_folder = partial(write_folder, ending=".vtk")


def _after_format(lines: bytes) -> bytes:
    """Put the mark behind the line that names PLY's format, the first place for a comment."""
    form, rest = lines.split(b"\n", 1)
    return form + f"\ncomment {SPACE_MARK}\n".encode() + rest


def _meshes(content: Content) -> list[tuple[str, trimesh.Trimesh]]:
    filled = [segment for segment in content.segments if segment.inside.any()]
    if not filled:
        names = ", ".join(content.names)
        raise BadInput(
            f"a mesh needs a mask that is not empty, and there is none ({names}); "
            "outline something first"
        )
    return [(segment.name, _as_trimesh(segment)) for segment in filled]


def _as_trimesh(segment: Segment) -> trimesh.Trimesh:
    surface = surface_of(segment)
    if not len(surface.faces):
        raise BadInput(f"the mask of {segment.name} is empty, so it has no surface; leave it out")
    colours = np.tile(np.array([*segment.colour, 255], dtype=np.uint8), (len(surface.vertices), 1))
    return trimesh.Trimesh(surface.vertices, surface.faces, vertex_colors=colours, process=False)
