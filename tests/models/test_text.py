"""The text tower and its tokenizer."""

import json
import subprocess
import sys

import pytest
import torch

from segone_napari.data.vocabulary import Vocabulary
from segone_napari.models.text import TextConfig, TextTower, build_tokenizer
from segone_napari.runtime import BadCheckpoint

VOCABULARY = Vocabulary.load()
PHRASES = [p for name in VOCABULARY.class_names for p in VOCABULARY.phrases(name)]
CONFIG = TextConfig(projection_dim=8, hidden=32, layers=1, heads=2, vocab_size=800)
TEXTS = ["left hippocampus", "ventriculus tertius", "", "Ångström 脳 \U0001f9e0", "word " * 40]


@pytest.fixture(scope="module")
def tower() -> TextTower:
    return TextTower.create(CONFIG, PHRASES, seed=1).eval()


def test_embeddings_have_the_configured_size(tower):
    embeddings = tower(TEXTS)
    assert embeddings.shape == (len(TEXTS), CONFIG.projection_dim)
    assert embeddings.dtype == torch.float32
    assert tower.features == CONFIG.projection_dim
    assert torch.isfinite(embeddings).all()
    assert tower([]).shape == (0, CONFIG.projection_dim)


def test_different_phrases_get_different_embeddings(tower):
    embeddings = tower([VOCABULARY.phrases(name)[0] for name in VOCABULARY.class_names])
    assert len(torch.unique(embeddings.round(decimals=5), dim=0)) == len(VOCABULARY.class_names)


def test_an_embedding_does_not_depend_on_the_phrases_beside_it(tower):
    together = tower(TEXTS)
    alone = torch.cat([tower([text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_tower(tower):
    random_state = torch.get_rng_state()
    again = TextTower.create(CONFIG, reversed(PHRASES), seed=1).eval()
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(again(TEXTS), tower(TEXTS))
    other = TextTower.create(CONFIG, PHRASES, seed=2).eval()
    assert not torch.equal(other(TEXTS), tower(TEXTS))


def test_a_saved_tower_is_read_back_the_same(tower, tmp_path):
    tower.save(tmp_path)
    again = TextTower.load(tmp_path)
    assert torch.equal(again.tokenize(TEXTS), tower.tokenize(TEXTS))
    assert torch.equal(again(TEXTS), tower(TEXTS))
    assert not again.training


def test_a_tower_saved_in_half_precision_computes_in_single_precision(tower, tmp_path):
    tower.save(tmp_path / "single")
    tower.save(tmp_path / "half", half=True)
    size = {k: (tmp_path / k / "model.safetensors").stat().st_size for k in ("single", "half")}
    assert size["half"] < 0.6 * size["single"]
    again = TextTower.load(tmp_path / "half")
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    torch.testing.assert_close(again(TEXTS), tower(TEXTS), rtol=2e-2, atol=2e-2)


def test_a_saved_tower_opens_with_transformers_own_classes(tower, tmp_path):
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    tower.save(tmp_path)
    model = CLIPTextModelWithProjection.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        embeddings = model(**batch).text_embeds
    torch.testing.assert_close(embeddings, tower(TEXTS), rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_weight(tower):
    tower(["left hippocampus", "csf"]).square().sum().backward()
    without = [name for name, p in tower.named_parameters() if p.grad is None]
    tower.zero_grad(set_to_none=True)
    assert without == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer_config.json"])
def test_a_damaged_or_incomplete_folder_is_said(tower, tmp_path, name):
    tower.save(tmp_path)
    (tmp_path / name).write_bytes(b"{")
    with pytest.raises(BadCheckpoint, match="damaged"):
        TextTower.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(BadCheckpoint, match=name):
        TextTower.load(tmp_path)


def test_pickled_weights_are_refused(tower, tmp_path):
    tower.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tower.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(BadCheckpoint, match="safetensors"):
        TextTower.load(tmp_path)


def test_weights_that_are_missing_in_the_file_are_said(tower, tmp_path):
    tower.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["num_hidden_layers"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadCheckpoint, match="lacks weights"):
        TextTower.load(tmp_path)


def test_a_folder_that_does_not_exist_is_not_looked_up_elsewhere(tmp_path):
    with pytest.raises(BadCheckpoint, match=r"config\.json"):
        TextTower.load(tmp_path / "openai" / "clip")


def test_the_tokenizer_gives_every_phrase_back():
    tokenizer = build_tokenizer(PHRASES)
    for phrase in PHRASES:
        tokens = tokenizer(phrase)["input_ids"]
        # It puts a space behind each piece of "ammon's", as CLIP does.
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        assert text.replace(" ", "") == phrase.lower().replace(" ", "")
        assert len(tokens) <= TextConfig().context, phrase


def test_the_tokenizer_knows_every_byte():
    tokenizer = build_tokenizer(["left hippocampus"])
    for text in ("~", "\u00df", "é", "脳", "\x01"):
        tokens = tokenizer(text)["input_ids"][1:-1]
        assert tokens
        assert tokenizer.eos_token_id not in tokens


def test_the_tokenizer_keeps_to_its_size():
    assert len(build_tokenizer(PHRASES, vocab_size=600)) <= 600
    with pytest.raises(ValueError, match="at least 514"):
        build_tokenizer(PHRASES, vocab_size=500)


def test_a_config_that_can_not_work_is_refused():
    with pytest.raises(ValueError, match="multiple of heads"):
        TextConfig(hidden=30, heads=4)
    with pytest.raises(ValueError, match="context"):
        TextConfig(context=2)
    with pytest.raises(ValueError, match="at least 1"):
        TextConfig(layers=0)


TWO_THREADS = """
import sys, threading
from segone_napari.models.text import TextTower

gate, loaded = threading.Barrier(2), []

def load():
    gate.wait()
    loaded.append(TextTower.load(sys.argv[1]))

threads = [threading.Thread(target=load) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(loaded))
"""


def test_two_threads_may_load_a_tower_at_once_in_a_new_process(tower, tmp_path):
    tower.save(tmp_path / "tower")
    command = [sys.executable, "-c", TWO_THREADS, str(tmp_path / "tower")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["2"], done.stderr
