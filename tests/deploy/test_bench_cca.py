"""Run: pytest tests/deploy/test_bench_cca.py"""

import json

import pytest
import torch

from deploy import bench_cca
from deploy.bench_cca import SCALES, SETTINGS, Data, Ruler, class_prompts
from deploy.cli import main
from rdt.alignment.toy_glyphs import NUM_TOKENS, Glyphs


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cca")
    words = ["--quick", "--out", str(folder), "--json", str(folder / "figures.json")]
    assert main(["--debug", "bench", "cca", *words]) == 0
    assert (folder / "cca.png").stat().st_size > 1000
    return json.loads((folder / "figures.json").read_text())


def test_every_setting_has_a_row(figures):
    rows = figures["rows"]
    assert list(rows)[:2] == ["truth", "none"]
    assert len(rows) == 3 + 2 * len(SCALES) + len(SETTINGS)
    assert {"CFG 1.5", "trained on, CFG 3", "CCA lambda 10, beta 1", "DPO beta 1", "unlearning lambda 0.3"} <= set(rows)
    for name, row in rows.items():
        assert 0 <= row["right class"] <= 1 and 0 <= row["TV"] <= 1, name
        assert row["KL(p|q)"] >= 0 or name == "truth"
        if name != "truth":
            assert row["passes"] == (2 if "CFG" in name else 1)
            assert row["sampling [cpu-s]"] > 0


class Truth:
    """The true distribution as if it were a policy: it samples, and knows each token after those before."""

    passes = 0

    def __init__(self, truth: Glyphs, classes: torch.Tensor) -> None:
        self.truth, self.classes = truth, classes

    def sample(self, prompts, num_tokens, generator):
        return self.truth.sample(self.classes, generator)

    def logits(self, prompts, responses):
        """The log-probability of the whole in the first token's place: one-hot elsewhere."""
        whole = self.truth.logp(responses).gather(1, self.classes[:, None])[:, 0]
        logits = torch.full((*responses.shape, 16), -1e9).scatter(2, responses[..., None], 0.0)
        rest = torch.log(-torch.expm1(whole))
        logits[:, 0] = -1e9
        logits[:, 0] = logits[:, 0].scatter(1, (responses[:, :1] + 1) % 16, rest[:, None])
        logits[:, 0] = logits[:, 0].scatter(1, responses[:, :1], whole[:, None])
        return logits


def test_the_truth_is_at_no_distance_from_itself():
    ruler = Ruler(Glyphs(), 1000, seed=0)
    row = ruler.row(Truth(Glyphs(), ruler.classes))
    for key in ("KL(q|p)", "KL(p|q)", "TV"):
        assert row[key] == pytest.approx(0, abs=1e-4)
    assert row["right class"] == pytest.approx(ruler.truth_row()["right class"], abs=0.03)
    assert row["entropy"] == pytest.approx(ruler.truth_row()["entropy"], abs=0.5)


def test_dropped_rows_have_the_null_class_in_both_halves():
    batch = Data(Glyphs(), 1000).contrasted(torch.Generator().manual_seed(0))
    null = class_prompts(torch.tensor([bench_cca.NULL]))[0, 0]
    dropped = batch.positive[:, 0] == null
    assert 0.05 < dropped.float().mean() < 0.15
    assert torch.equal(dropped, batch.negative[:, 0] == null)
    assert torch.equal(batch.same, (batch.positive == batch.negative)[:, 0])
    assert batch.responses.shape == (1000, NUM_TOKENS)


def test_a_distance_between_two_scales():
    curve = [{"right class": 0.6, "TV": 0.2}, {"right class": 0.8, "TV": 0.4}]
    assert bench_cca._between(curve, 0.7) == pytest.approx(0.3)
    assert bench_cca._between(curve, 0.5) is None and bench_cca._between(curve, 0.9) is None
