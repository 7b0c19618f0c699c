"""Run: pytest tests/rdt/train/test_loader.py"""

import os
import pickle
import signal

import numpy as np
import pytest
import torch

from data_pipeline.storage import EpisodeStore
from data_pipeline.stream import SampleStream, UnreadableError
from data_pipeline.transforms.dropout import DropoutRates
from data_pipeline.transforms.images import BACKGROUND
from data_pipeline.transforms.randomise import Randomisation
from rdt.train.loader import BatchLoader
from tests.damage import damage_picture

NOTHING = DropoutRates(state=0, state_mask=0, image=0, instruction=0, control_hz=0)
EVERYTHING = DropoutRates(state=1, state_mask=1, image=1, instruction=1, control_hz=1)
ZERO = np.zeros((1, 128))
DIVISIONS = [(workers, world) for workers in (0, 1, 3) for world in (1, 2, 4)]


@pytest.fixture
def make_loader(store, make_model):
    loaders = []

    def make(store=store, stream=None, **options) -> BatchLoader:
        stream = stream or SampleStream([store], seed=3, horizon=4, image_history=1, decoded_cache_bytes=0)
        loaders.append(BatchLoader(stream, make_model().condition, 8, **options))
        return loaders[-1]

    yield make
    for loader in loaders:
        loader.close()


@pytest.fixture
def broken(store, robot, tmp_path):
    """A copy of the store in which one picture in twelve is damaged."""
    with EpisodeStore.create(tmp_path / "broken", robot) as copy:
        for episode in store:
            copy.add(episode)
    for episode in range(4):
        damage_picture(copy, episode, 5)
    return EpisodeStore.open(copy.path)


def randomisation(**options) -> Randomisation:
    return Randomisation(seed=3, image_history=1, **options)


EVERYTHING_AT_ONCE = randomisation(dropout=DropoutRates(), mean_states=ZERO, random_shift_px=3, state_noise_snr_db=20.0)


def flat(batch) -> dict[str, torch.Tensor]:
    """All of a batch by sample, the words given to each."""
    seen = vars(batch.observation).copy()
    index = seen.pop("text_index")
    seen |= {name: seen[name][index] for name in ("text", "text_mask")}
    rest = {"actions": batch.actions, "mask": batch.action_mask, "valid": batch.action_valid, "store": batch.store}
    norm = {} if batch.state_norm is None else {"norm": batch.state_norm}
    return seen | rest | norm | {"index": batch.sample_index}


def assert_equal(first, second):
    first, second = (batch if isinstance(batch, dict) else flat(batch) for batch in (first, second))
    assert list(first) == list(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def interleaved(batches) -> dict[str, torch.Tensor]:
    """The batches of all ranks as one."""
    parts = [flat(batch) for batch in batches]
    return {name: torch.stack([part[name] for part in parts], dim=1).flatten(0, 1) for name in parts[0]}


def test_a_batch_is_a_function_of_the_step_alone(make_loader):
    in_order, alone = (make_loader(randomisation=EVERYTHING_AT_ONCE) for _ in range(2))
    batches = [in_order(step) for step in range(4)]
    assert_equal(batches[3], alone(3))
    assert_equal(batches[1], alone(1))  # backwards, past what was made ahead
    assert batches[3].sample_index.tolist() == list(range(24, 32))


@pytest.mark.parametrize(("workers", "world_size"), DIVISIONS)
def test_any_division_gives_the_same_samples(make_loader, workers, world_size):
    options = {"randomisation": EVERYTHING_AT_ONCE, "with_state_norm": True}
    whole = make_loader(**options)
    ranks = [make_loader(workers=workers, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    steps = (7, 8, 9, 2)  # resumed at 7, then sent back
    kept = [(whole(step), [rank(step) for rank in ranks]) for step in steps]
    for one, several in kept:  # batches stay what they are when later ones are made
        assert_equal(one, interleaved(several))


def test_a_batch_says_which_actions_are_padding_and_how_large_the_states_are(make_loader, store):
    loader = make_loader(with_state_norm=True)
    batch = loader(0)
    for row, index in enumerate(batch.sample_index.tolist()):
        place = loader._steps.stream.mixture.locate(index)
        states = store[place.episode].states.astype(float)
        assert batch.action_valid[row].tolist() == [place.step + i < len(states) for i in range(4)]
        assert batch.store[row] == place.store == 0
        assert np.allclose(batch.state_norm[row], np.sqrt((states**2).mean(axis=0)), rtol=1e-6)
    assert make_loader()(0).state_norm is None


def test_ranks_that_do_not_divide_the_batch_are_refused(make_loader):
    with pytest.raises(ValueError, match="3 ranks cannot share batches of 8 samples"):
        make_loader(world_size=3)


def test_nothing_dropped_is_the_sample_itself(make_loader):
    assert_equal(make_loader(randomisation=randomisation(dropout=NOTHING, mean_states=ZERO))(0), make_loader()(0))


def test_everything_dropped_hides_the_condition_and_keeps_the_target(make_loader, store):
    mean = store.stats("state").mean
    hidden = make_loader(randomisation=randomisation(dropout=EVERYTHING, mean_states=mean[None]))(0)
    plain = make_loader()(0)
    seen = hidden.observation
    assert torch.allclose(seen.state, torch.tensor(mean, dtype=torch.float32).expand_as(seen.state))
    assert (seen.slot_mask == 0).all()
    assert (seen.control_hz == 0).all()
    assert (seen.images == BACKGROUND).all()
    assert seen.text_mask.sum(1).tolist() == [1]  # one empty sentence for all, a single pair
    assert torch.equal(hidden.actions, plain.actions)
    assert torch.equal(hidden.action_mask, plain.action_mask)
    assert plain.action_mask.sum(1).tolist() == [14.0] * 8


@pytest.mark.parametrize(("workers", "world_size"), [(0, 2), (3, 1), (1, 4)])
def test_bad_samples_are_replaced_by_the_same_ones_for_any_division(make_loader, broken, workers, world_size, caplog):
    options = {"randomisation": EVERYTHING_AT_ONCE, "max_bad_fraction": 0.5, "bad_window": 1000}
    whole = make_loader(broken, **options)
    ranks = [
        make_loader(broken, workers=workers, rank=rank, world_size=world_size, **options) for rank in range(world_size)
    ]
    counted = 0
    for step in range(12):
        one, several = whole(step), [rank(step) for rank in ranks]
        assert_equal(one, interleaved(several))
        assert one.num_substituted == sum(batch.num_substituted for batch in several)
        counted += one.num_substituted
    bad = sorted(whole.bad_samples, key=lambda sample: sample.index)
    assert bad == sorted((sample for rank in ranks for sample in rank.bad_samples), key=lambda sample: sample.index)
    assert counted == len({sample.index for sample in bad}) > 3
    assert {sample.place.step for sample in bad} == {5}
    caplog.clear()
    again = make_loader(broken, **options)
    for step in range(12):
        again(step)
    places = [sample.place for sample in again.bad_samples]
    assert len(caplog.records) == len(set(places)) < len(places)  # each bad one is named once
    assert "broken, episode 'episode_" in caplog.text and "step 5" in caplog.text


def test_too_many_bad_samples_stop(make_loader, broken):
    loader = make_loader(broken, max_bad_fraction=0.04, bad_window=100)
    bad = []
    with pytest.raises(ValueError, match=r"of the last \d+ samples could not be read, 4 of 100 are tolerated"):
        bad.extend(loader(step).num_substituted for step in range(100))
    assert 0 < sum(bad) <= 4


def test_the_first_bad_sample_never_stops(make_loader, broken):
    loader = make_loader(broken, max_bad_fraction=0.0, bad_window=10)
    draw = loader._steps.stream.draw
    bad = [sum(len(draw(i).bad) for i in range(8 * step, 8 * step + 8)) for step in range(100)]
    assert loader(bad.index(1)).num_substituted == 1
    with pytest.raises(ValueError, match="could not be read, 1 of 10 are tolerated"):
        loader(bad.index(2))


def test_bad_samples_of_long_ago_are_forgotten(make_loader, broken):
    loader = make_loader(broken, max_bad_fraction=1.0, bad_window=16)
    for step in range(20):
        loader(step)
    assert all(sample.index >= 8 * 18 for sample in loader.bad_samples)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_wholly_broken_store_stops_with_one_clear_error(make_loader, broken, workers):
    for episode in range(4):
        for step in set(range(12)) - {5}:
            damage_picture(broken, episode, step)
    loader = make_loader(EpisodeStore.open(broken.path), workers=workers)
    with pytest.raises(UnreadableError, match=r"^sample 0 cannot be read, nor can 8 .*: .*broken, episode 'ep"):
        loader(0)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_names_its_sample(make_loader, monkeypatch, workers):
    loader = make_loader(workers=workers)

    def fail(self, index):
        raise TypeError("a slip of the programmer")

    monkeypatch.setattr(EpisodeStore, "__getitem__", fail)
    with pytest.raises(RuntimeError, match=r"sample 16 \(.*, episode 'episode_.', step \d+\): TypeError: a slip"):
        loader(2)


def test_a_killed_worker_is_an_error(make_loader):
    loader = make_loader(workers=1)
    loader(0)
    (worker,) = loader._made._batches._workers
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"worker .* (exited unexpectedly|is killed by signal)"):
        for step in range(1, 10):
            loader(step)


def test_workers_leave_interrupts_to_the_trainer(make_loader):
    loader = make_loader(workers=2)
    loader(0)
    for worker in loader._made._batches._workers:
        os.kill(worker.pid, signal.SIGINT)
    assert [loader(step).sample_index[0] for step in range(1, 12)] == list(range(8, 96, 8))


def test_workers_leave_the_random_numbers_of_training_alone(make_loader):
    state = torch.random.get_rng_state()
    make_loader(workers=1)(0)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_workers_hold_is_small(make_loader):
    steps = make_loader()._steps
    assert len(pickle.dumps(steps.collator)) < 1000
    assert not [value for value in vars(steps).values() if isinstance(value, torch.Tensor | torch.nn.Module)]


def test_labels_belong_to_the_episodes_of_the_samples(store, make_model):
    model = make_model()
    stream = SampleStream([store], seed=0, horizon=model.horizon, image_history=1, cameras=("external",))
    labels = np.array([10.0, 11.0, 12.0, 13.0], dtype=np.float32)
    loader = BatchLoader(stream, model.condition, 8, labels=[labels])
    batch = loader(0)
    loader.close()
    places = [stream.draw(index).place for index in batch.sample_index.tolist()]
    assert batch.label.tolist() == [labels[place.episode] for place in places]
