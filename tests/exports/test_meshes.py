"""Meshes: in RAS mm, on the right side, as large as the mask; read with other libraries."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import meshio
import nibabel as nib
import numpy as np
import pytest

from segone_napari.exports import measures, registry
from segone_napari.exports.content import Content, Segment
from segone_napari.exports.measures import area_mm2, measure
from segone_napari.exports.meshes import surface_of
from segone_napari.runtime import BadInput
from segone_napari.volume import Volume

from .cases import AFFINES, content


def volume_mm3(points: np.ndarray, triangles: np.ndarray) -> float:
    """Volume by Gauss's theorem: positive only if triangles face outwards."""
    a, b, c = (points[triangles[:, n]].astype(np.float64) for n in range(3))
    return float(np.linalg.det(np.stack([a, b, c], axis=1)).sum() / 6.0)


def ball(radius_mm: float, affine: np.ndarray, centre: tuple[float, float, float]) -> Segment:
    """A ball around a point of the world, on a grid of 40³ voxels centred there."""
    affine = affine.copy()
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ [19.5, 19.5, 19.5]
    world = nib.affines.apply_affine(affine, np.indices((40, 40, 40)).reshape(3, -1).T)
    inside = np.linalg.norm(world - np.array(centre), axis=1) < radius_mm
    mask = inside.reshape(40, 40, 40).astype(np.uint8)
    return Segment("left putamen", (236, 13, 176), Volume.from_affine(mask, affine))


@pytest.mark.parametrize("kind", AFFINES)
@pytest.mark.parametrize("ending", [".stl", ".ply"])
def test_mesh_lies_over_its_mask_and_encloses_its_volume(
    tmp_path: Path, ending: str, kind: str
) -> None:
    # On the patient's left (x < 0), in front and above: no two signs are alike.
    one = ball(7.0, AFFINES[kind], (-31.0, 12.0, 5.0))
    registry.write(Content((one,)), tmp_path / f"mesh{ending}")
    mesh = meshio.read(tmp_path / f"mesh{ending}")
    triangles = mesh.cells_dict["triangle"]
    assert volume_mm3(mesh.points, triangles) == pytest.approx(1000 * one.volume_ml, rel=0.02)
    voxels = nib.affines.apply_affine(one.grid.affine, np.argwhere(one.mask.data))
    np.testing.assert_allclose(mesh.points.mean(axis=0), voxels.mean(axis=0), atol=0.5)
    half = np.abs(one.grid.affine[:3, :3]).sum(axis=1)
    assert (mesh.points.min(axis=0) >= voxels.min(axis=0) - half).all()
    assert (mesh.points.max(axis=0) <= voxels.max(axis=0) + half).all()
    assert mesh.points[:, 0].max() < 0


def test_a_long_surface_is_closed_and_no_corner_of_it_comes_twice() -> None:
    one = ball(17.0, np.eye(4), (0.0, 0.0, 0.0))
    surface = surface_of(one)
    edges = np.sort(surface.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    _, times = np.unique(edges, axis=0, return_counts=True)
    assert (times == 2).all()
    assert len(np.unique(surface.vertices.round(6), axis=0)) == len(surface.vertices)
    assert set(surface.faces.ravel()) == set(range(len(surface.vertices)))


@pytest.mark.parametrize(
    "where",
    [
        np.s_[5:6, 5:6, 5:6],  # one voxel
        np.s_[2:12, 5:6, 2:10],  # a sheet
        np.s_[2:12, 5:6, 5:6],  # a thread
        np.s_[::3, ::3, ::3],  # voxels that don't touch
        np.s_[:, :, :],  # all of the image
    ],
)
def test_no_shape_loses_volume(where: tuple[slice, ...]) -> None:
    mask = np.zeros((14, 16, 12), dtype=np.uint8)
    mask[where] = 1
    one = Segment("a", (1, 2, 3), Volume.from_affine(mask, AFFINES["oblique"]))
    surface = surface_of(one)
    volume = volume_mm3(surface.vertices, surface.faces)
    assert volume == pytest.approx(1000 * one.volume_ml, rel=0.02)


def test_small_islands_stay_beside_a_large_part() -> None:
    mask = np.zeros((40, 40, 40), dtype=np.uint8)
    mask[5:30, 5:30, 5:30] = 1
    mask[36, 36, 36] = 1
    surface = surface_of(Segment("a", (1, 2, 3), Volume.from_affine(mask, np.eye(4))))
    assert (surface.vertices > 34).all(axis=1).any()


def test_files_say_that_they_are_ras(tmp_path: Path) -> None:
    """3D Slicer takes a mesh that doesn't for LPS, and would show it turned by half a turn."""
    one = content().only(content().segments[0])
    stl, _ = registry.write(one, tmp_path / "mesh.stl")
    ply, _ = registry.write(one, tmp_path / "mesh.ply")
    header = stl.read_bytes()[:80]
    assert b"SPACE=RAS" in header
    assert not header.startswith(b"solid")
    assert b"\ncomment SPACE=RAS\n" in ply.read_bytes()[:200]


def test_glb_holds_one_named_object_a_structure(tmp_path: Path) -> None:
    sent = content()
    glb, _ = registry.write(sent, tmp_path / "scene.glb")
    document, buffer = read_glb(glb)
    meshes = {node["name"]: node["mesh"] for node in document["nodes"] if "mesh" in node}
    # What is empty has no surface.
    assert set(meshes) == {s.name for s in sent.segments if s.inside.any()}
    for one in sent.segments[:3]:
        (part,) = document["meshes"][meshes[one.name]]["primitives"]
        points = accessor(document, buffer, part["attributes"]["POSITION"]).reshape(-1, 3)
        triangles = accessor(document, buffer, part["indices"]).reshape(-1, 3).astype(int)
        volume = volume_mm3(points, triangles)
        assert volume == pytest.approx(1000 * one.volume_ml, rel=0.02)
    assert all("matrix" not in node or is_identity(node) for node in document["nodes"])


@pytest.mark.parametrize("kind", AFFINES)
def test_vtk_reads_its_own_format(tmp_path: Path, kind: str) -> None:
    legacy = pytest.importorskip("vtkmodules.vtkIOLegacy", reason="vtk is not installed")
    support = pytest.importorskip("vtkmodules.util.numpy_support")
    one = ball(7.0, AFFINES[kind], (-31.0, 12.0, 5.0))
    nothing = replace(one, name="nothing", mask=one.mask.with_data(0 * one.mask.data))
    other = ball(4.0, AFFINES[kind], (-31.0, 12.0, 5.0))
    registry.write(Content((one, nothing, other)), tmp_path / "mesh.vtk")
    reader = legacy.vtkPolyDataReader()
    reader.SetFileName(str(tmp_path / "mesh.vtk"))
    reader.Update()
    mesh = reader.GetOutput()
    assert "SPACE=RAS" in reader.GetHeader()
    points = support.vtk_to_numpy(mesh.GetPoints().GetData())
    triangles = support.vtk_to_numpy(mesh.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    labels = support.vtk_to_numpy(mesh.GetCellData().GetArray("label"))
    for label, part in ((1, one), (3, other)):
        volume = volume_mm3(points, triangles[labels == label])
        assert volume == pytest.approx(1000 * part.volume_ml, rel=0.02)
    assert set(labels) == {1, 3}
    assert points[:, 0].max() < 0


def test_vtk_finds_the_objects_of_a_glb_scene(tmp_path: Path) -> None:
    geometry = pytest.importorskip("vtkmodules.vtkIOGeometry", reason="vtk is not installed")
    support = pytest.importorskip("vtkmodules.util.numpy_support")
    sent = content()
    registry.write(sent, tmp_path / "scene.glb")
    reader = geometry.vtkGLTFReader()
    reader.SetFileName(str(tmp_path / "scene.glb"))
    reader.Update()
    parts, walk = [], reader.GetOutput().NewIterator()
    while not walk.IsDoneWithTraversal():
        parts.append(walk.GetCurrentDataObject())
        walk.GoToNextItem()
    assert len(parts) == 3  # the fourth is empty
    for part, one in zip(parts, sent.segments[:3], strict=True):
        points = support.vtk_to_numpy(part.GetPoints().GetData())
        triangles = support.vtk_to_numpy(part.GetPolys().GetConnectivityArray()).reshape(-1, 3)
        volume = volume_mm3(points, triangles)
        assert volume == pytest.approx(1000 * one.volume_ml, rel=0.02)
        voxels = nib.affines.apply_affine(one.grid.affine, np.argwhere(one.mask.data))
        np.testing.assert_allclose(points.mean(axis=0), voxels.mean(axis=0), atol=1.0)


def test_several_structures_become_a_folder_of_stl_files(tmp_path: Path) -> None:
    sent = content()
    with pytest.raises(BadInput, match="holds one mesh"):
        registry.write(sent, tmp_path / "all.stl")
    assert list(tmp_path.iterdir()) == []
    registry.write(sent, tmp_path / "meshes", name="stl")
    assert sorted(file.name for file in (tmp_path / "meshes").iterdir()) == [
        "01_left-hippocampus.stl",
        "02_right-amygdala.stl",
        "03_white-matter-lesions.stl",
        "provenance.json",
    ]
    nothing = replace(sent, segments=sent.segments[3:])
    for name in ("a.stl", "a.glb", "a.ply", "a.vtk"):
        with pytest.raises(BadInput, match="empty"):
            registry.write(nothing, tmp_path / name)


@pytest.mark.parametrize("radius", [5.0, 8.0])
@pytest.mark.parametrize("kind", AFFINES)
def test_measures_of_a_ball(kind: str, radius: float) -> None:
    one = ball(radius, AFFINES[kind], (-31.0, 12.0, 5.0))
    image = one.mask.with_data(np.where(one.mask.data > 0, 7.5, 3.0).astype(np.float32))
    (row,) = measure([one], image)
    is_thick = max(one.grid.spacing) > 2.0
    if radius == 8.0:
        assert row["volume_ml"] == pytest.approx(4 / 3 * np.pi * 0.8**3, rel=0.05)
    # Of a ball of the mask's own volume: with slices of 4 mm that differs from the true one.
    surface = 4 * np.pi * (3000 * one.volume_ml / (4 * np.pi)) ** (2 / 3)
    tolerance = 0.03 if radius == 8.0 or not is_thick else 0.07
    assert row["surface_mm2"] == pytest.approx(surface, rel=tolerance)
    assert row["largest_diameter_mm"] == pytest.approx(2 * radius, abs=3.0 if is_thick else 1.0)
    assert (row["mean_intensity"], row["sd_intensity"]) == (7.5, 0.0)


def test_surface_of_parts_is_the_sum_of_theirs() -> None:
    """A small island beside something large is not smoothed away."""
    mask = np.zeros((40, 40, 40), dtype=np.uint8)
    mask[5:25, 5:25, 5:25] = 1
    large = area_mm2(Segment("a", (1, 2, 3), Volume.from_affine(mask, np.eye(4))))
    assert large == pytest.approx(6 * 20**2, rel=0.08)  # its edges are rounded
    mask[30, 30, 30] = 1
    both = area_mm2(Segment("a", (1, 2, 3), Volume.from_affine(mask, np.eye(4))))
    assert 3.0 < both - large < 6.0  # a cube of one voxel has 6, a ball of its volume 4.8


def test_surface_does_not_depend_on_how_the_axes_lie() -> None:
    slanted = np.diag([1.0, 1.0, 2.0, 1.0])
    slanted[0, 2] = 0.8  # a tilted gantry
    one = ball(9.0, slanted, (0.0, 0.0, 0.0))
    assert area_mm2(one) == pytest.approx(4 * np.pi * 81, rel=0.04)


def test_specks_of_the_same_shape_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    area_of_part = measures._area_of_part

    def counted(inside: np.ndarray, *grid: np.ndarray) -> float:
        measured.append(inside.shape)
        return area_of_part(inside, *grid)

    monkeypatch.setattr(measures, "_area_of_part", counted)
    mask = np.zeros((40, 40, 40), dtype=np.uint8)
    mask[2:-2:4, 2:-2:4, 2:-2:4] = 1
    mask[0, 0, :2] = 1
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    area = area_mm2(Segment("noise", (1, 2, 3), Volume.from_affine(mask, affine)))
    assert sorted(measured) == [(1, 1, 1), (1, 1, 2)]
    mask[1:] = 0
    pair = area_mm2(Segment("pair", (1, 2, 3), Volume.from_affine(mask, affine)))
    mask[:] = 0
    mask[2, 2, 2] = 1
    speck = area_mm2(Segment("speck", (1, 2, 3), Volume.from_affine(mask, affine)))
    assert area == pytest.approx(pair + 729 * speck)


def test_measures_of_nothing_are_zero(tmp_path: Path) -> None:
    sent = content()
    registry.write(sent, tmp_path / "out.json")
    rows = json.loads((tmp_path / "out.json").read_text())["segments"]
    assert rows[3]["volume_ml"] == rows[3]["surface_mm2"] == rows[3]["largest_diameter_mm"] == 0
    assert rows[3]["mean_intensity"] is None
    assert sent.image is not None
    values = sent.image.data[sent.segments[0].inside]
    assert rows[0]["mean_intensity"] == pytest.approx(values.mean(), abs=1e-3)
    registry.write(sent, tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0].startswith("label,name,voxels,volume_ml,surface_mm2,largest_diameter_mm,")
    assert len(lines) == 5


def read_glb(path: Path) -> tuple[dict, bytes]:
    """The two chunks of a GLB file, as the glTF 2.0 specification lays them out."""
    data = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size = struct.unpack("<I", data[12:16])[0]
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def accessor(document: dict, buffer: bytes, number: int) -> np.ndarray:
    one = document["accessors"][number]
    view = document["bufferViews"][one["bufferView"]]
    dtype = {5126: "<f4", 5125: "<u4", 5123: "<u2"}[one["componentType"]]
    count = one["count"] * {"SCALAR": 1, "VEC3": 3}[one["type"]]
    start = view.get("byteOffset", 0) + one.get("byteOffset", 0)
    return np.frombuffer(buffer, dtype, count, start)


def is_identity(node: dict) -> bool:
    return bool(np.allclose(np.reshape(node["matrix"], (4, 4)), np.eye(4)))
