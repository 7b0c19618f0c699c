"""Run: pytest tests/deploy/test_bench_nca.py"""

import json

import pytest
import torch

from deploy import bench_nca
from deploy.bench_nca import BETAS, KINDS, TEMPERATURE, K, nca_optimum
from deploy.cli import main
from rdt.alignment.losses import nca, soft_labels


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nca")
    words = ["--quick", "--out", str(folder), "--json", str(folder / "figures.json")]
    assert main(["--debug", "bench", "nca", *words]) == 0
    assert (folder / "nca.png").stat().st_size > 1000
    return json.loads((folder / "figures.json").read_text())


def test_every_method_has_a_row_and_a_curve_at_every_beta(figures):
    trained = {f"{kind}, {beta:g}" for kind in KINDS for beta in BETAS}
    assert set(figures["curves"]) == trained
    optima = {"NCA's optimum, 1", *(f"InfoNCA's optimum, {beta:g}" for beta in BETAS)}
    assert set(figures["rows"]) == trained | optima | {"truth of the data", "reference"}
    for name, row in figures["rows"].items():
        assert 0 <= row["reward"] <= 1 and row["KL to reference"] > -1e-5, name
    for curve in figures["curves"].values():
        assert curve["step"] == [0, 1, 2, 3]
        assert curve["best"][0] == curve["worst"][0] == 0


def test_infonca_of_two_is_dpo(figures):
    assert all(gap < 1e-6 for gap in figures["DPO of K = 2"].values())


def test_the_reference_is_its_own(figures):
    row = figures["rows"]["reference"]
    assert row["worst question"] == 0 and row["KL to reference"] == 0


REWARDS = torch.randint(6, (2, 40), generator=torch.Generator().manual_seed(0)) / 5
P_REF = torch.rand(2, 40, generator=torch.Generator().manual_seed(1)).log().log_softmax(dim=1)


def test_the_optimum_of_nca_sums_to_one():
    torch.testing.assert_close(nca_optimum(P_REF, REWARDS).exp().sum(dim=1), torch.ones(2))


def test_no_change_of_a_ratio_lowers_nca_at_its_optimum():
    """The loss over many rows of K answers of the reference has no gradient there."""
    drawn = torch.multinomial(P_REF[0].exp(), 400_000 * K, replacement=True, generator=torch.Generator().manual_seed(2))
    drawn = drawn.unflatten(0, (-1, K))
    label = soft_labels(REWARDS[0][drawn], 1 / TEMPERATURE)
    steep = []
    for start in (nca_optimum(P_REF, REWARDS) - P_REF, torch.zeros_like(P_REF)):
        ratio = start[0].requires_grad_()
        nca(ratio[drawn], label).backward()
        steep.append(ratio.grad.abs().sum().item())
    assert steep[0] < 0.005 < 0.1 < steep[1]


def test_a_rated_answer_is_one_of_the_model():
    torch.manual_seed(0)
    config = bench_nca.SequenceConfig(num_outputs=5, num_prompts=10, max_tokens=7, width=8, num_heads=1)
    rated = bench_nca.rate(bench_nca.SequenceModel(config), 7, torch.Generator().manual_seed(0))
    assert rated.responses.shape == (7, K, 5) and rated.rewards.shape == (7, K)
    assert rated.prompts[:, 0].min() >= 5 and rated.prompts[:, 1].min() >= 10
