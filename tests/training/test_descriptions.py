"""Training what tells descriptions."""

import numpy as np

from segone_napari.cli import main
from segone_napari.data.descriptions import Describer


def test_the_packaged_one_is_what_the_packaged_text_gives(tmp_path, capsys):
    path = tmp_path / "again.safetensors"
    assert main(["train-descriptions", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    packaged, again = Describer.packaged(), Describer.load(path)
    assert again.entries == packaged.entries
    assert np.allclose(again.weights, packaged.weights, atol=0.05)


def test_what_cannot_be_written_is_told(tmp_path, capsys):
    assert main(["train-descriptions", str(tmp_path / "nowhere" / "file.safetensors")]) == 2
    assert "No such file" in capsys.readouterr().err
