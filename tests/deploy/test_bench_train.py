"""Run: pytest tests/deploy/test_bench_train.py"""

import contextlib
import dataclasses
import io
import json
import os

import numpy as np
import pytest
import torch

from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.types import CAMERA_ROLES, Observation
from data_pipeline.storage import EpisodeStore
from deploy import bench_train
from deploy.bench import wake
from deploy.bench_train import LOSSES, Row, deal_cameras
from deploy.bench_train_row import PEAK_MEMORY, PLAIN, PlainImitation
from deploy.cli import build_parser, main
from rdt.batch import Batch
from rdt.encoders.condition import ConditionConfig
from rdt.encoders.t5 import CachedT5
from rdt.model.presets import PRESETS
from rdt.objective import DiffusionImitation
from rdt.random import SampleGenerator
from rdt.train.config import DataConfig, TrainConfig
from rdt.train.start import network_config
from rdt.visuomotor import VisuomotorPolicy
from tests.published import SIGLIP_TOKENS, make_siglip

CPU = torch.device("cpu")


def run(folder, *words: str) -> tuple[dict, str]:
    """The figures and the table of `rdt bench train`."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = main(["--debug", "bench", "train", *words, "--json", str(folder / "figures.json")])
    assert code == 0
    return json.loads((folder / "figures.json").read_text()), printed.getvalue()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return run(tmp_path_factory.mktemp("tiny"), "--device", "cpu", "--batch", "4", "--steps", "2", "--ranks", "2")


def test_a_row_for_the_plain_step_ours_and_each_parallel_mode(tiny):
    figures, text = tiny
    assert list(figures["rows"]) == [PLAIN, "ours", "ddp", "fsdp"]
    assert [row["ranks"] for row in figures["rows"].values()] == [1, 1, 2, 2]
    for name, row in figures["rows"].items():
        assert {
            "step p50",
            "step p99",
            "step CPU p50",
            "floor",
            "samples/s",
            "mfu",
            "waiting share",
            "plain / this",
        } <= set(row)
        assert row["step p50"] > 0 and row[PEAK_MEMORY] > 0
        assert 0 <= row["waiting share"] <= 1
        assert f"\n{name} " in text
    assert "left out   hsdp" in text


def test_ratios_are_to_the_plain_step_of_the_same_run(tiny):
    rows = tiny[0]["rows"]
    assert rows[PLAIN]["plain / this"] == 1
    for row in rows.values():
        assert row["plain / this"] == pytest.approx(rows[PLAIN]["step p50"] / row["step p50"] * row["ranks"])


def test_the_floor_is_the_arithmetic_at_the_peak(tiny):
    figures, _ = tiny
    for row in figures["rows"].values():
        counted = np.mean(row["flops"][bench_train.WARM_UP :]) * row["ranks"]
        assert row["floor"] == pytest.approx(1e-9 * counted / figures["peak TFLOP/s"])
        assert row["mfu"] == pytest.approx(row["floor"] / row["step p50"])


def test_the_plain_steps_and_ours_train_the_same(tiny):
    rows = tiny[0]["rows"]
    assert len(rows["ours"]["losses"]) == bench_train.WARM_UP + 2
    assert rows["ours"]["losses"] == pytest.approx(rows[PLAIN]["losses"], rel=1e-3)
    assert rows["ours"][LOSSES[0]] < 1e-4
    assert len(set(rows["ours"]["losses"])) > 1


def test_what_spares_memory_is_not_in_the_plain_step(tmp_path):
    pytest.importorskip("peft", reason="needs the extra `lora`")
    figures, _ = run(
        tmp_path,
        *("--device", "cpu", "--batch", "4", "--micro-batch", "2", "--steps", "1", "--ranks", "1"),
        *("--lora", "2", "--activation-checkpointing", "--optimizer", "adafactor"),
    )
    assert figures["micro-batch"] == 2 and figures["adapters of rank"] == 2
    assert list(figures["rows"]) == [PLAIN, "ours"]
    ours = figures["rows"]["ours"]
    assert ours[LOSSES[0]] < 1e-4
    assert LOSSES[1] not in ours  # another optimizer trains something else


def words(*given: str):
    return build_parser().parse_args(["bench", "train", *given])


def test_compiled_blocks_are_a_row_beside_the_eager_one(tmp_path):
    config = bench_train._config(words("--compile", "--activation-checkpointing"), 4, 2, CPU, tmp_path)
    rows = {row.name: row for row in bench_train._rows(config, ranks=2)}
    assert list(rows) == [PLAIN, "ours", "compiled", "ddp", "fsdp"]
    assert [row.config.compile for row in rows.values()] == [False, False, True, True, True]
    assert [row.config.activation_checkpointing for row in rows.values()] == ["none", *["blocks"] * 4]
    assert rows["fsdp"].config.data.batch_size == 8


def test_rows_by_name(tmp_path):
    rows = bench_train._rows(bench_train._config(words(), 4, 2, CPU, tmp_path), ranks=2)
    assert bench_train._asked(None, rows) == rows
    assert [row.name for row in bench_train._asked(("fsdp", "ours"), rows)] == ["ours", "fsdp"]
    with pytest.raises(ValueError, match="--rows compiled: this command has plain, ours, ddp, fsdp"):
        bench_train._asked(("compiled",), rows)


def test_one_process_says_which_modes_are_left_out():
    assert "ddp, fsdp, hsdp" in bench_train._left_out(1, CPU)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--optimizer", "adamx"], "optim.name must be one of"),
        (["--cameras", "2"], "are for 170m and 1b"),
        (["--no-vision"], "are for 170m and 1b"),
        (["--size", "170m", "--cameras", "5"], "from 1 to 3, got 5"),
        (["--device", "tpuu"], "unknown device"),
    ],
)
def test_a_wrong_word_is_one_message(argv, message, capsys):
    assert main(["bench", "train", *argv]) == 1
    assert message in capsys.readouterr().err


def test_cameras_are_dealt_so_that_their_mean_is_right():
    dealt = deal_cameras(CAMERA_ROLES, 1.63, 8)
    assert sum(map(len, dealt)) == 13
    assert {len(roles) for roles in dealt} == {1, 2}
    assert deal_cameras(CAMERA_ROLES, 3, 2) == [CAMERA_ROLES] * 2


def test_the_published_sizes_read_what_is_made_for_them(tmp_path):
    args = words("--size", "170m", "--cameras", "1.63")
    config = bench_train._config(args, 1, 1, CPU, tmp_path)
    told = bench_train._make_inputs(args, config, CPU, tmp_path)
    assert told == {"cameras of an episode": "1.63 of 3 on average", "vision": "left out: siglip without layers"}
    store = EpisodeStore.open(tmp_path / "store")
    assert sum(len(episode.images) for episode in store) == 13
    with torch.device("meta"):
        model = VisuomotorPolicy(network_config(config), config.condition)
    assert model.condition.vision.tokens_per_image == 729
    model.condition.text.prepare(["", *store.instructions])  # from the cache, with no T5 here
    assert isinstance(model.condition.text, CachedT5)
    assert len(model.condition.text.embeddings) == 1 + bench_train.EPISODES


def test_a_row_that_fails_says_why(tmp_path):
    config = TrainConfig(preset="rdt_tiny", condition=ConditionConfig(cameras=("external",)), device="cpu")
    config = dataclasses.replace(config, data=DataConfig(stores=(str(tmp_path / "none"),)))
    with pytest.raises(RuntimeError, match=r"(?s)row 'ours' left with 1.*is no episode store"):
        bench_train._run(Row("ours", config), tmp_path)


def test_a_row_out_of_memory_is_a_line_of_the_table(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho torch.OutOfMemoryError: CUDA out of memory >&2; exit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr("sys.executable", os.fspath(script))
    row = Row("ours", TrainConfig())
    found = bench_train._run(row, tmp_path)
    assert found == {"failed": "out of memory"}
    assert "out of memory" in bench_train._line(row, found)


@pytest.fixture
def frozen(tmp_path) -> tuple[VisuomotorPolicy, Batch]:
    """A small policy with a frozen tower, and a batch that shares instructions and misses pictures."""
    torch.manual_seed(0)
    preset = dataclasses.replace(
        PRESETS["rdt_tiny"],
        hidden_size=32,
        depth=2,
        num_heads=2,
        pred_horizon=4,
        lang_token_dim=8,
        img_token_dim=32,
        img_cond_len=2 * SIGLIP_TOKENS,
        img_pos_embed_config=None,
    )
    condition = ConditionConfig(
        vision="siglip", vision_path=str(make_siglip(tmp_path / "siglip")), cameras=("external", "left_wrist")
    )
    model = VisuomotorPolicy(preset, condition)
    wake(model.policy)
    rng = np.random.default_rng(0)
    mask = np.arange(NUM_SLOTS) < 6
    observations = [
        Observation(
            state=np.where(mask, rng.normal(size=NUM_SLOTS), 0).astype(np.float32),
            state_mask=mask,
            images={"external": rng.integers(0, 256, (1, 28, 28, 3), dtype=np.uint8)},
            image_masks={"external": np.array([seen])},
            instruction=sentence,
            control_hz=25.0,
            stamp_ns=0,
        )
        for seen, sentence in ((True, "to the left"), (False, "to the right"), (True, "to the left"))
    ]
    batch = Batch(
        observation=model.condition.collate(observations),
        actions=torch.randn(3, 4, NUM_SLOTS),
        action_mask=torch.from_numpy(mask).float().repeat(3, 1),
        action_valid=torch.ones(3, 4, dtype=torch.bool),
        store=torch.zeros(3, dtype=torch.long),
        sample_index=torch.arange(3),
    )
    return model, batch


def test_the_plain_loss_shares_nothing_and_is_equal(frozen, monkeypatch):
    model, batch = frozen
    encoded, projected = [], []
    encode, project = model.condition.encode_images, model.policy._place_language
    monkeypatch.setattr(model.condition, "encode_images", lambda images: encoded.append(len(images)) or encode(images))
    monkeypatch.setattr(
        model.policy, "_place_language", lambda lang, mask: projected.append(len(lang)) or project(lang, mask)
    )
    ours, _ = DiffusionImitation()(model, batch, SampleGenerator(0))
    assert (encoded, projected) == ([1, 2], [2])  # the background once, the pictures that are there; two instructions
    encoded.clear(), projected.clear()
    plain, _ = PlainImitation()(model, batch, SampleGenerator(0))
    assert (encoded, projected) == ([6], [3])
    torch.testing.assert_close(plain, ours, rtol=1e-5, atol=0)


@pytest.mark.gpu
def test_on_a_gpu_memory_and_utilisation_are_the_devices(tmp_path):
    figures, text = run(tmp_path, "--device", "cuda", "--batch", "4", "--steps", "2", "--ranks", "1", "--compile")
    assert list(figures["rows"]) == [PLAIN, "ours", "compiled"]
    assert figures["dtype"] == "bfloat16"
    assert all(row["reserved memory [GB]"] >= row[PEAK_MEMORY] > 0 for row in figures["rows"].values())
    assert "one GPU needs none of them" in text
