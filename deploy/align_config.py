"""A run of `rdt align` as typed dataclasses; the YAML names only what differs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from data_pipeline.schema.registry import unknown_name
from deploy.rollouts import RolloutConfig
from rdt.alignment.chunks import OutcomeKind
from rdt.train.config import OptimConfig

Method = Literal["sfbc", "cep", "eda", "nca", "cca", "srpo"]
NEEDS_CRITIC: tuple[Method, ...] = ("sfbc", "cep", "eda", "srpo")


@dataclass(frozen=True)
class StageConfig:
    """How long and with what one network is trained."""

    steps: int = 1000
    batch_size: int = 32
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=1e-4, weight_decay=1e-4, schedule="cosine", warmup_steps=20, ema_decay=0.99
        )
    )


def _small(steps: int, batch_size: int) -> StageConfig:
    """Of a small network on pooled features."""
    optim = OptimConfig(lr=1e-3, weight_decay=0.1, schedule="cosine", warmup_steps=20, ema_decay=0.99)
    return StageConfig(steps, batch_size, optim)


@dataclass(frozen=True)
class HeadSizes:
    """Of a small network on pooled features."""

    hidden: int = 256
    depth: int = 2
    dropout: float = 0.1


@dataclass(frozen=True)
class CriticStage:
    """Who says how good a chunk is: learnt once from the rollouts, for all methods that ask it."""

    out: str = "runs/align/critic"
    num_actions: int = 8  # of a chunk, those that are executed before the next one
    sizes: HeadSizes = field(default_factory=lambda: HeadSizes(dropout=0.2))
    members: int = 4  # it is as sure as the most doubtful of them
    components: int = 8  # principal ones that are kept of what the encoders make of pictures and words
    held_out_every: int = 5  # every so many-th scene is kept to look at; 0: none
    train: StageConfig = field(default_factory=lambda: _small(300, 256))


@dataclass(frozen=True)
class ImitateStage:
    """Of srpo's student: it first learns what the start does in all observations of the rollouts."""

    draws: int = 4  # chunks of the start for each observation, of which it learns the mean
    components: int = 64  # principal ones that it keeps of the same: it has more to learn from than a critic
    train: StageConfig = field(default_factory=lambda: _small(6000, 64))


@dataclass(frozen=True)
class AlignConfig:
    """Everything that defines a run; the resolved form is stored in OUT/align.yaml."""

    method: Method = "nca"
    start_from: str = "align_start"  # a checkpoint, or the name of a shipped training config, which is trained first
    out: str = "runs/align/nca"
    seed: int = 0
    device: str = "auto"
    rollouts: RolloutConfig = field(default_factory=RolloutConfig)  # of the start, in the embedded simulator
    rollouts_out: str = "runs/align/rollouts"  # where they are kept, for all methods
    stores: tuple[str, ...] = ()  # in place of rollouts: episodes that say how they ended, or of CCA any with words
    critic: CriticStage = field(default_factory=CriticStage)
    head: HeadSizes = field(default_factory=HeadSizes)  # of cep's energy, and of srpo's student
    imitate: ImitateStage = field(default_factory=ImitateStage)  # of srpo: the student's first stage
    policy: StageConfig = field(default_factory=StageConfig)
    learn_from: Literal["success", "operator_valence"] = (
        "success"  # of nca: how an episode ended, or what its operator's
    )
    # EEG says of it (docs/eeg.md), by stores that were annotated
    kind: OutcomeKind = "NCA"  # of nca: InfoNCA too, or imitation of successes, to compare with
    train_encoders: bool = True  # of eda, nca and cca: those that trained along with the start train on
    temperature: float = 1.0  # of what the critic says: 1 aims at the policy given that it succeeds, less at more
    beta: float = 1.0  # of log-ratios, in units of the reference's own error; of srpo: weight of the critic
    lambda_: float = 1.0  # of cca: weight of the negatives
    hold: float = 1.0  # of eda: weight of the policy's shift from the start, which else drifts away
    draws: int = 2  # noises and times that a log-ratio is averaged over
    candidates: int = 16  # chunks of one observation: to learn from, and of sfbc to choose from
    scale: float = 1.0  # of cep: what guidance is multiplied by

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(unknown_name("method", self.method, get_args(Method)))
        if not (self.temperature > 0 and self.beta > 0 and self.draws >= 1 and self.candidates >= 2):
            raise ValueError(
                "temperature and beta must be positive, draws at least 1 and candidates at least 2, got "
                f"{self.temperature}, {self.beta}, {self.draws} and {self.candidates}"
            )
        if self.learn_from == "operator_valence" and (self.method != "nca" or not self.stores):
            raise ValueError(
                "learn_from operator_valence is for method nca and for annotated demonstrations: name them in stores "
                "(docs/eeg.md)"
            )
        if self.method == "cca" and not self.stores:
            raise ValueError("cca learns from the words of demonstrations: name them in stores")
